"""The heads' artifact."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.guard.policy import load
from bem_fleet.guard.scoring.heads import CARD, WEIGHTS, ClassifierHeads, vectorizer
from bem_fleet.guard.scoring.tiers import FastTier
from bem_fleet.services.safety.settings import SafetySettings
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

FOLDER = SafetySettings().scorer
LIMIT_BYTES = 2 * 1024 * 1024


def test_artifact_is_small_and_the_policy_has_its_thresholds() -> None:
    """The shipped rules use the thresholds that were chosen for the shipped heads."""
    chosen = json.loads((FOLDER / CARD).read_text())["thresholds"]
    rules = load(SafetySettings().policy).rules

    assert (FOLDER / WEIGHTS).stat().st_size < LIMIT_BYTES
    for rule in rules:
        assert rule.threshold == chosen.get(rule.scorer, rule.threshold), rule.scorer


def test_weights_that_the_card_does_not_name_are_refused(tmp_path: Path) -> None:
    """A changed byte is seen when the scorer starts."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "heads"))
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(ValueError, match="hash"):
        ClassifierHeads(folder)


HEADS = ClassifierHeads(FOLDER)


LETTERS = "ab ß12漢.'ABKİ "


@given(texts=st.lists(st.text(st.sampled_from(LETTERS), max_size=60), min_size=1, max_size=4))
def test_words_are_read_as_the_vectorizer_that_trained_the_heads_reads_them(
    texts: list[str],
) -> None:
    """The short way to the logits gives what scikit-learn's features give."""
    weights = load_file(FOLDER / WEIGHTS)
    weight = weights["words.weight"].astype(np.float32)  # [7, FEATURES]
    expected = build_vectorizer().transform(texts) @ weight.T + weights["words.bias"]

    np.testing.assert_allclose(HEADS.words(texts), expected, rtol=1e-4, atol=1e-5)


def test_an_insult_is_read_in_every_disguise_and_prose_is_not() -> None:
    """The fast tier reads what is meant, in one batch."""
    limit = json.loads((FOLDER / CARD).read_text())["thresholds"]["toxicity"]
    texts = [
        "you are a fucking stupid idiot",
        "yоu аre а fuсking stupіd іdiot",  # noqa: RUF001 - Cyrillic
        "you are a fu\u200bck\u200bing stu\u200bpid idiot",
        "y0u are a fuck1ng stup1d id10t",
        "lbh ner n shpxvat fghcvq vqvbg naq lbh xabj vg",
        "The harbour was quiet that morning and the boats lay still in the pale light.",
    ]
    wanted = frozenset(("toxicity",))
    read = [
        f.scores["toxicity"]
        for f in FastTier(FOLDER).read([ScoringQuery(t, "response", wanted) for t in texts])
    ]

    assert [score >= limit for score in read] == [True] * 5 + [False]
