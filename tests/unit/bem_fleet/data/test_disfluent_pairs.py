"""The rule keeps what is asked after a break, and leaves out corrections in the middle."""

import pytest
from bem_fleet.data.disfluent_pairs import fluent_question, load_disfluent_pairs
from bem_fleet.data.held_out import HeldOutClosedError


@pytest.mark.parametrize(
    ("disfluent", "fluent"),
    [
        (
            "Who sold or no what did the king call the new bridge ?",
            "What did the king call the new bridge ?",
        ),
        (
            "how does , uh sorry , i mean in what year was the bridge built ?",
            "In what year was the bridge built ?",
        ),
        ("Did the king swim no was he able to walk ?", "Was he able to walk ?"),
        ("What ship no scratch that tell me who built the bridge ?", "Who built the bridge ?"),
    ],
)
def test_question_after_a_break_is_the_fluent_one(disfluent: str, fluent: str) -> None:
    """What was taken back is gone, and the rest is as it was but for its first letter."""
    assert fluent_question(disfluent) == fluent


@pytest.mark.parametrize(
    "disfluent",
    [
        "Who built the road I mean the bridge ?",
        "The bridge stands in which town no which country of Europe ?",
        "In what town and in which year no which month was it built ?",
        "Whose plan rather did the king accuse them of having ?",
        "Who was it no what was her name , oh his son called ?",
        "Who saw it or wait what ?",
        "What did the king call the new bridge ?",
        "",
    ],
)
def test_unclear_corrections_have_no_pair(disfluent: str) -> None:
    """Corrected phrases, second breaks, short rests and fluent questions are left out."""
    assert fluent_question(disfluent) is None


@pytest.mark.slow
def test_pairs_are_of_their_split_and_held_out_ones_are_closed() -> None:
    """A third of the training questions has a pair, whose fluent side ends the question."""
    pairs = load_disfluent_pairs("train")

    assert len(pairs) >= 100
    assert all(one.question.question.endswith(one.fluent[1:]) for one in pairs)
    with pytest.raises(HeldOutClosedError):
        load_disfluent_pairs("held_out")
