"""Scores of a method after a stream."""

from collections.abc import Sequence

from bem_fleet.data.instruction_families import FamilyItem
from bem_fleet.studies.online.correction_stream import Correction, StudyItems
from bem_fleet.studies.online.stream_scoring import fixed_after, score_stream


class Parrot:
    """Replies what it was taught for a word, and breaks one neighbour."""

    name = "parrot"

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Remember the last word of each prompt."""
        self.known |= {one.prompt.split()[-1]: one.reply for one in corrections}

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Reply by the last word."""
        return [self.known.get(one.split()[-1], "base") for one in prompts]


def test_scores_count_what_is_right_and_what_is_kept() -> None:
    """A wrong correction costs no efficacy; a neighbour with a taught word is changed."""
    stream = [
        Correction("a", "u", "say one", "1"),
        Correction("b", "u", "tell x", "X"),
        Correction("a", "u", "say two", "2"),
        Correction("b", "u", "tell y", "Q", wrong=True),
    ]
    probes = [("a", "now one", "1"), ("a", "now two", "2"), ("b", "now y", "Y")]
    items = StudyItems(
        tuple(FamilyItem(family, "", request, wanted) for family, request, wanted in probes),
        ("another two", "another three"),
        ("unrelated",),
    )
    score = score_stream(Parrot(), stream, items, lambda texts: ["base"] * len(texts), look=2)

    assert score.efficacy == 1.0
    assert score.paraphrase == {"a": 1.0, "b": 0.0}
    assert (score.neighbours_kept, score.unrelated_kept) == (0.5, 1.0)
    assert score.fixed_after == {"a": None, "b": None}


def test_a_family_is_fixed_once_it_stays_right() -> None:
    """A look below the limit begins the count anew, and one look at the end is not enough."""
    assert fixed_after([(8, 0.95), (16, 0.5), (24, 0.9), (32, 1.0), (40, 0.9)]) == 24
    assert fixed_after([(8, 0.2), (16, 0.5), (24, 0.5), (32, 1.0)]) is None
    assert fixed_after([(8, 1.0)]) == 8
