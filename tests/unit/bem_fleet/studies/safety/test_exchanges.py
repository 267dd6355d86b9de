"""Exchanges by arm, and their scores by origin."""

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.studies.safety.exchanges import Exchanges, harmless_scores, scores_by_origin

CHOICE = ChoiceQuestion("c", "which?", "piqa", ("this", "that"), 1, "c")
QUESTION = BenignText("q", "2 + 2?", "asdiv", ("4",))


def exchanges(prompt: ChoiceQuestion | BenignText, before: str, after: str) -> Exchanges:
    """Return exchanges of one prompt and two seeds; the sidecar withholds the second seed's."""
    arms = {"basis": [[after], [after]], "sidecar": [[before], [""]], "both": [[after], [""]]}
    return Exchanges([prompt], [before], arms, [[False], [True]])


def test_joined_exchanges_are_restricted_to_either_part() -> None:
    """Prompts, replies and arms stay aligned by prompt in every seed."""
    choices, answers = exchanges(CHOICE, "that", "this"), exchanges(QUESTION, "4", "5")
    joined = choices.joined(answers)

    assert joined.arms["both"] == [["this", "5"], ["", ""]]
    assert joined.intervened == [[False, False], [True, True]]
    assert joined.restricted([True, False]) == choices
    assert joined.restricted([False, True]) == answers


def test_each_kind_of_question_has_its_own_reading() -> None:
    """A chosen reply is compared as it is, an answer in words by its golds; withheld ones are 0."""
    joined = exchanges(CHOICE, "that", "this").joined(exchanges(QUESTION, "4", "5"))
    scored = harmless_scores(joined)
    exact = {
        arm: [[row["exact_match"] for row in run] for run in runs] for arm, runs in scored.items()
    }

    assert exact["baseline"] == [[1.0, 1.0]]
    assert exact["sidecar"] == [[1.0, 1.0], [0.0, 0.0]]
    assert exact["both"] == [[0.0, 0.0], [0.0, 0.0]]
    assert scores_by_origin(joined)["piqa"] == {
        "items": 1,
        "without": 1.0,
        "basis": 0.0,
        "sidecar": 0.5,
        "both": 0.0,
    }
