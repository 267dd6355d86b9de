"""Typed facts from real texts, the source values of compositional questions."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from bem_fleet.data.cleaning import CleaningPlan, clean_record
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.records import Record, make_record
from bem_fleet.data.splits import assign_split

FactKind = Literal["text", "number", "flag"]
# Passages are quoted in full; two of them and a question stay well under 1,000 tokens.
_MAX_PASSAGE_CHARS = 900
_MAX_ANSWER_CHARS = 40
_NUMBER = re.compile(r"\d{1,4}")


@dataclass(frozen=True)
class Fact:
    """Question with a passage that answers it.

    Attributes:
        kind: Type of the answer.
        passage: Real text of at most 900 characters.
        question: Question about the passage.
        answer: Words of the passage, digits, or ``yes`` or ``no``.
    """

    kind: FactKind
    passage: str
    question: str
    answer: str

    @property
    def key(self) -> str:
        """Digest of passage and question, 16 hexadecimal characters."""
        return make_record(self.question, self.passage).key


FACT_DATASETS = ("disfl-qa", "boolq", "asdiv")
"""Datasets that provide facts, in the order of reading."""


SET = "facts"


@cache
def load_facts() -> dict[str, dict[FactKind, tuple[Fact, ...]]]:
    """Return the facts by the split of their passage and by kind.

    Facts of dev and held-out passages that are near-duplicates of an earlier split are left out.

    Texts come from Disfl-QA, flags from BoolQ, numbers from Disfl-QA and ASDiv. A passage belongs
    to one split, the same as in the data of adapter passage-qa.

    Raises:
        DataNotFoundError: The package with the texts is not installed.
    """
    displaced = displaced_keys(SET)
    return {
        split: {
            kind: tuple(fact for fact in facts if fact.key not in displaced)
            for kind, facts in kinds.items()
        }
        for split, kinds in all_facts().items()
    }


@cache
def all_facts() -> dict[str, dict[FactKind, tuple[Fact, ...]]]:
    """Return the facts by split and kind before near-duplicates are left out."""
    by_split: dict[str, dict[FactKind, list[Fact]]] = {}
    for name in FACT_DATASETS:
        check = "extractable" if name == "disfl-qa" else "answered"
        plan = CleaningPlan(("readable", check))
        seen: set[str] = set()
        for record in DATASETS[name].read():
            kept = clean_record(record, plan, seen).record
            if kept and (fact := _extract_fact(name, kept)):
                kinds = by_split.setdefault(assign_split(fact.passage), {})
                kinds.setdefault(fact.kind, []).append(fact)
    return {
        split: {kind: tuple(facts) for kind, facts in sorted(kinds.items())}
        for split, kinds in by_split.items()
    }


def _extract_fact(name: str, record: Record) -> Fact | None:
    """Return the fact of a record; None if it is too long or a number is expected but missing."""
    answer = record.answers[-1]  # ASDiv's last answer is the bare number
    if len(record.passage) > _MAX_PASSAGE_CHARS or len(answer) > _MAX_ANSWER_CHARS:
        return None
    number = _NUMBER.fullmatch(answer) is not None
    if name == "asdiv" and not number:
        return None
    kind: FactKind = "flag" if name == "boolq" else "number" if number else "text"
    return Fact(kind, record.passage, record.question.rstrip(" ?.") + "?", answer)
