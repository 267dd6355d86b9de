"""BLEU and chrF of one item."""

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.overlap import bleu, chrf, signatures


def test_scores_are_sacrebleus() -> None:
    """Equal texts score 1, disjoint ones near 0, and sacrebleu's documented example agrees."""
    # README of sacrebleu: the first system sentence against both references.
    said = "The dog bit the man."
    golds = ["The dog bit the man.", "The dog had bit the man."]

    assert bleu(said, golds) == pytest.approx(1.0)
    assert chrf(said, golds) == pytest.approx(1.0)
    assert bleu("xyz", golds) == 0.0
    assert chrf("xyz", golds) < 0.05
    assert 0 < bleu("It wasn't surprising.", ["It was not unexpected."]) < 0.5


def test_signatures_name_the_choices() -> None:
    """A report can say exactly which BLEU and chrF it holds."""
    assert "eff:yes" in signatures()["bleu"]
    assert "nc:6" in signatures()["chrf"]


def test_no_reference_is_an_error() -> None:
    """Nothing can be compared with nothing."""
    with pytest.raises(InvalidScoresError):
        bleu("a", [])
    with pytest.raises(InvalidScoresError):
        chrf("a", [])
