"""Terms and columns of the word heads."""

import subprocess
import sys

import numpy as np
from bem_fleet.guard.scoring.word_terms import N_FEATURES, extract_terms, murmurhash3, term_column
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.utils import murmurhash3_32

VECTORIZER = HashingVectorizer(n_features=N_FEATURES, ngram_range=(1, 2), alternate_sign=False)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_terms_and_columns_are_those_of_scikit_learn(text: str) -> None:
    """Any text, in any script: the same terms in the same columns."""
    terms = extract_terms(text)
    columns = VECTORIZER.transform([text]).indices

    assert sorted(terms) == sorted(VECTORIZER.build_analyzer()(text))
    assert sorted(set(map(term_column, terms))) == sorted(np.unique(columns).tolist())


@given(st.binary(max_size=40))
def test_hash_is_murmurhash3(key: bytes) -> None:
    """Keys of every length, with the rest of one to three bytes."""
    assert murmurhash3(key) == murmurhash3_32(key, positive=True)


def test_scoring_does_not_import_scikit_learn() -> None:
    """Each scorer process would hold 120 MB of it."""
    code = "import sys; from bem_fleet.guard.scoring import tiers; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"
