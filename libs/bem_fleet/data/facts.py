"""Facts of real texts by type: what procedural questions are composed over."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from bem_fleet.data.cleaning import CleaningPlan, clean
from bem_fleet.data.readers import SETS
from bem_fleet.data.records import Record
from bem_fleet.data.splits import split_of

Kind = Literal["text", "number", "flag"]
# A fact's passage is shown whole; two of them and a question stay well under 1,000 tokens.
_LONGEST_PASSAGE = 900
_LONGEST_ANSWER = 40
_NUMBER = re.compile(r"\d{1,4}")


@dataclass(frozen=True)
class Fact:
    """A question that a passage answers.

    Attributes:
        kind: Type of the answer.
        passage: Real text.
        question: About it.
        answer: Words of the passage, digits, or ``yes`` and ``no``.
    """

    kind: Kind
    passage: str
    question: str
    answer: str


FACT_SETS = ("disfl-qa", "boolq", "asdiv")
"""The sets that facts come from, in the order of reading."""


@cache
def load_facts() -> dict[str, dict[Kind, tuple[Fact, ...]]]:
    """Return the facts by split of their passage and by kind.

    Texts come from Disfl-QA, flags from BoolQ, numbers from both Disfl-QA and ASDiv; a passage is
    in one split only, the same one as in adapter passage-qa.

    Raises:
        DataNotFoundError: The package with the texts is not installed.
    """
    found: dict[str, dict[Kind, list[Fact]]] = {}
    for name in FACT_SETS:
        check = "extractable" if name == "disfl-qa" else "answered"
        plan = CleaningPlan(("readable", check))
        seen: set[str] = set()
        for record in SETS[name].read():
            kept = clean(record, plan, seen).record
            if kept and (fact := _fact(name, kept)):
                kinds = found.setdefault(split_of(fact.passage), {})
                kinds.setdefault(fact.kind, []).append(fact)
    return {
        split: {kind: tuple(facts) for kind, facts in sorted(kinds.items())}
        for split, kinds in found.items()
    }


def _fact(name: str, record: Record) -> Fact | None:
    """Return what a record states; None if it is too long or its number is none."""
    answer = record.answers[-1]  # ASDiv's last answer is the bare number
    if len(record.passage) > _LONGEST_PASSAGE or len(answer) > _LONGEST_ANSWER:
        return None
    number = _NUMBER.fullmatch(answer) is not None
    if name == "asdiv" and not number:
        return None
    kind: Kind = "flag" if name == "boolq" else "number" if number else "text"
    return Fact(kind, record.passage, record.question.rstrip(" ?.") + "?", answer)
