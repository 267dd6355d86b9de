"""Multiple-choice questions of held-out origins."""

import pytest
from bem.errors import DataFormatError
from bem_fleet.data import multiple_choice
from bem_fleet.data.benign_prompts import origin_splits
from bem_fleet.data.held_out import HeldOutClosedError, inspection
from bem_fleet.data.multiple_choice import MAX_PER_ORIGIN, load_choice_questions, make_question


def test_replies_are_parsed_with_the_right_one() -> None:
    """Letters are taken off, a reply may have several lines, and the answer names one."""
    found = make_question("x", " how? ", "\nA. by car\n  or bus\nB. e.g. D. H.\nC.walk", "C.walk")

    assert found.text == "how?"
    assert found.options == ("by car\n  or bus", "e.g. D. H.", "walk")
    assert found.right == 2
    assert found.cluster == make_question("x", "how?", "A. a\nB. b", "A. a").cluster


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        ("A. one", "A. one", "not lettered"),
        ("A. one\nC. two", "A. one", "not lettered"),
        ("see\nA. one\nB. two", "A. one", "not lettered"),
        ("A. one\nB. ", "A. one", "not lettered"),
        ("A. one\nB. two", "C. two", "none of the options"),
        ("A. one\nB. two", "A. two", "none of the options"),
        ("A. one\nB. two", "", "none of the options"),
    ],
)
def test_what_is_no_question_is_refused(options: str, answer: str, text: str) -> None:
    """A wrong gold answer would count against both sides."""
    with pytest.raises(DataFormatError, match=text):
        make_question("x", "how?", options, answer)


def test_suite_is_closed_large_and_of_held_out_origins() -> None:
    """The guard knows no text of the origins, and right replies are spread over the letters."""
    with pytest.raises(HeldOutClosedError):
        load_choice_questions()
    with inspection():
        found = load_choice_questions()
    families = {one.family for one in found}
    count, first = len(found), sum(one.right == 0 for one in found)

    assert families == MAX_PER_ORIGIN.keys()
    assert {origin_splits()[name] for name in families} == {"held_out"}
    assert len({one.key for one in found}) == count >= 2100
    assert all(one.options[one.right] and len(one.options) >= 2 for one in found)
    assert 0.3 < first / count < 0.6


def test_an_origin_that_trains_the_guard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new draw of the harmless origins may put one of them into training."""
    multiple_choice.all_choice_questions.cache_clear()
    monkeypatch.setattr(multiple_choice, "origin_splits", lambda: {"piqa": "train"})
    with pytest.raises(DataFormatError, match="piqa: its harmless texts are in train"):
        multiple_choice.all_choice_questions()
