"""Classifier heads and their artifact."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.guard.policy import load_policy
from bem_fleet.guard.scoring.heads import CARD, WEIGHTS, ClassifierHeads
from bem_fleet.guard.scoring.tiers import FastTier
from bem_fleet.guard.training.head_training import build_vectorizer
from bem_fleet.services.safety.settings import SafetySettings
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

FOLDER = SafetySettings().heads
LIMIT_BYTES = 2 * 1024 * 1024


def test_artifact_is_small_and_the_policy_has_its_thresholds() -> None:
    """The shipped policy uses the thresholds calibrated for the shipped heads."""
    calibrated = json.loads((FOLDER / CARD).read_text())["thresholds"]
    rules = load_policy(SafetySettings().policy).rules

    assert (FOLDER / WEIGHTS).stat().st_size < LIMIT_BYTES
    for rule in rules:
        assert rule.threshold == calibrated.get(rule.scorer, rule.threshold), rule.scorer


def test_weights_with_another_hash_are_rejected(tmp_path: Path) -> None:
    """A changed byte is detected when the heads are loaded."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "heads"))
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(ValueError, match="hash"):
        ClassifierHeads(folder)


HEADS = ClassifierHeads(FOLDER)


LETTERS = "ab ß12漢.'ABKİ "


@settings(deadline=None)
@given(texts=st.lists(st.text(st.sampled_from(LETTERS), max_size=60), min_size=1, max_size=4))
def test_word_logits_equal_those_of_the_training_features(
    texts: list[str],
) -> None:
    """The fast product equals scikit-learn's features times the weights."""
    weights = load_file(FOLDER / WEIGHTS)
    weight = weights["words.weight"].astype(np.float32)  # [8, N_FEATURES]
    expected = build_vectorizer().transform(texts) @ weight.T + weights["words.bias"]

    np.testing.assert_allclose(HEADS.word_logits(texts), expected, rtol=1e-4, atol=1e-5)


def test_insults_are_detected_in_every_obfuscation_and_prose_is_not() -> None:
    """The fast tier scores all obfuscations above the threshold, in one batch."""
    limit = json.loads((FOLDER / CARD).read_text())["thresholds"]["toxicity"]
    texts = [
        "you are a fucking stupid idiot",
        "yоu аre а fuсking stupіd іdiot",  # noqa: RUF001 - Cyrillic
        "you are a fu\u200bck\u200bing stu\u200bpid idiot",
        "y0u are a fuck1ng stup1d id10t",
        "lbh ner n shpxvat fghcvq vqvbg naq lbh xabj vg",
        "The harbour was quiet that morning and the boats lay still in the pale light.",
    ]
    scorers = frozenset(("toxicity",))
    scores = [
        f.scores["toxicity"]
        for f in FastTier(FOLDER).score([ScoringQuery(t, "response", scorers) for t in texts])
    ]

    assert [score >= limit for score in scores] == [True] * 5 + [False]
