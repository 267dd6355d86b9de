"""Facts of real texts by type: what procedural questions are composed over."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from bem_fleet.data.cleaning import CleaningPlan, clean_record
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.records import Record
from bem_fleet.data.splits import assign_split

FactKind = Literal["text", "number", "flag"]
# A fact's passage is shown whole; two of them and a question stay well under 1,000 tokens.
_MAX_PASSAGE_CHARS = 900
_MAX_ANSWER_CHARS = 40
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

    kind: FactKind
    passage: str
    question: str
    answer: str


FACT_DATASETS = ("disfl-qa", "boolq", "asdiv")
"""The sets that facts come from, in the order of reading."""


@cache
def load_facts() -> dict[str, dict[FactKind, tuple[Fact, ...]]]:
    """Return the facts by split of their passage and by kind.

    Texts come from Disfl-QA, flags from BoolQ, numbers from both Disfl-QA and ASDiv; a passage is
    in one split only, the same one as in adapter passage-qa.

    Raises:
        DataNotFoundError: The package with the texts is not installed.
    """
    found: dict[str, dict[FactKind, list[Fact]]] = {}
    for name in FACT_DATASETS:
        check = "extractable" if name == "disfl-qa" else "answered"
        plan = CleaningPlan(("readable", check))
        seen: set[str] = set()
        for record in DATASETS[name].read():
            kept = clean_record(record, plan, seen).record
            if kept and (fact := _extract_fact(name, kept)):
                kinds = found.setdefault(assign_split(fact.passage), {})
                kinds.setdefault(fact.kind, []).append(fact)
    return {
        split: {kind: tuple(facts) for kind, facts in sorted(kinds.items())}
        for split, kinds in found.items()
    }


def _extract_fact(name: str, record: Record) -> Fact | None:
    """Return what a record states; None if it is too long or its number is none."""
    answer = record.answers[-1]  # ASDiv's last answer is the bare number
    if len(record.passage) > _MAX_PASSAGE_CHARS or len(answer) > _MAX_ANSWER_CHARS:
        return None
    number = _NUMBER.fullmatch(answer) is not None
    if name == "asdiv" and not number:
        return None
    kind: FactKind = "flag" if name == "boolq" else "number" if number else "text"
    return Fact(kind, record.passage, record.question.rstrip(" ?.") + "?", answer)
