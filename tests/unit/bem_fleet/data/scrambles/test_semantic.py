"""Synonyms fit tag, case and article; paraphrases keep the text."""

import numpy as np
import pytest
from bem_fleet.data.scrambles import semantic
from bem_fleet.data.scrambles.semantic import (
    HELD_OUT_TEMPLATES,
    TEMPLATES,
    scramble_paraphrase,
    scramble_synonyms,
)
from hypothesis import given
from hypothesis import strategies as st

SYNONYMS = {
    ("car", "noun"): ("auto",),
    ("buy", "verb"): ("purchase",),
    ("big", "adj"): ("large",),
    ("have", "verb"): ("own",),
}


def scrambled(text: str, rate: float = 1.0) -> str:
    """Return the text with synonyms, after a check of the inverse."""
    one = scramble_synonyms(text, rate, np.random.default_rng(0))
    assert one.restore(one.text) == text
    return one.text


@pytest.mark.slow
def test_content_words_get_synonyms_in_their_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inflected words, grammar words and articles that would not fit keep the word."""
    monkeypatch.setattr(semantic, "load_synonyms", lambda: SYNONYMS)

    assert scrambled("They want to buy the BIG car.") == "They want to purchase the LARGE auto."
    assert scrambled("They have a car,  and cars.") == "They have a car,  and cars."
    assert scrambled("They want to buy the big car.", 0.0) == "They want to buy the big car."


@given(st.text(max_size=40), st.integers(0, 2**32))
def test_templates_keep_the_text(text: str, seed: int) -> None:
    """The text stands in the template as it is, and the record takes it out again."""
    one = scramble_paraphrase(text, np.random.default_rng(seed))

    assert one.text in {template.replace("{}", text) for template in TEMPLATES}
    assert one.restore(one.text) == text


def test_held_out_templates_are_others() -> None:
    """No training template is held out, and each has the text once."""
    assert not set(TEMPLATES) & set(HELD_OUT_TEMPLATES)
    assert all(one.count("{}") == 1 for one in (*TEMPLATES, *HELD_OUT_TEMPLATES))
