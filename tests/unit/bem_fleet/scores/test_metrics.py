"""Readings of a reply."""

import pytest
from bem_fleet.scores.metrics import SCORING_MODES
from hypothesis import given, settings
from hypothesis import strategies as st

GOLDS = ("the Andes of Peru", "Peru")


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ('{"answer": "Peru"}', 1.0, 1.0),
        ('Sure! {"answer": "Peru"}', 0.0, 1.0),
        ("Peru", 0.0, 1.0),
        ('{"answer": "Chile"}', 0.0, 0.0),
    ],
)
def test_strict_asks_for_the_form_and_lenient_does_not(
    reply: str, strict: float, lenient: float
) -> None:
    """The mission's reading never gives more than the one that flatters a baseline."""
    assert SCORING_MODES["strict"]["exact_match"](reply, GOLDS) == strict
    assert SCORING_MODES["lenient"]["exact_match"](reply, GOLDS) == lenient


@given(st.text(max_size=60))
@settings(max_examples=60)
def test_every_score_of_any_reply_lies_in_the_unit_interval(reply: str) -> None:
    """Whatever a model says, a score is a number in [0, 1], and strict is at most lenient."""
    scores = {
        (reading, name): score(reply, GOLDS)
        for reading, named in SCORING_MODES.items()
        for name, score in named.items()
    }

    assert all(0 <= value <= 1 for value in scores.values())
    for name in ("exact_match", "f1"):
        assert scores["strict", name] <= scores["lenient", name]


def test_free_text_is_scored_by_overlap() -> None:
    """The closest gold counts; word order matters to BLEU, not to F1."""
    text = SCORING_MODES["text"]

    assert {name: score("Peru", GOLDS) for name, score in text.items()} == {
        name: pytest.approx(1.0) for name in ("f1", "bleu", "chrf")
    }
    assert text["f1"]("Peru of Andes", GOLDS) == 1.0
    assert text["bleu"]("Peru of Andes", GOLDS) < 0.5


def test_a_verbatim_reply_has_its_format() -> None:
    """Only the complete gold reply scores 1; space around it is no part of it."""
    verbatim = SCORING_MODES["verbatim"]["exact_match"]

    assert verbatim(" ANSWER=4\n", ("ANSWER=4",)) == 1
    assert verbatim("answer=4", ("ANSWER=4",)) == 0
