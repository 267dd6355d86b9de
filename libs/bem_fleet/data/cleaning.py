"""Quality control, removal of duplicates and of personal data, one record at a time."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module

from bem.errors import DataNotFoundError

from bem_fleet.data.records import Record, make_record

_MAX_CHARS = 20_000
_WORD = re.compile(r"\w+")
# What replaces personal data says what it was, so that a sentence still reads.
_IDENTIFIER_PATTERNS = {
    "EMAIL": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "CARD": re.compile(r"\b\d(?:[ -]?\d){12,18}\b"),
    "SSN": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "IP": re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
    "PHONE": re.compile(r"(?<![\w-])(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"),
}

QualityCheck = Callable[[Record], str]
"""From a record to why it is dropped; empty when it is kept."""


@dataclass(frozen=True)
class CleaningPlan:
    """How a set is cleaned.

    Attributes:
        checks: Names of ``QUALITY_CHECKS``, in order; the first that objects names the reason.
        near_duplicates: Drop what has the same words as an earlier record, whatever case,
            punctuation and blanks; else only what has the same key.
        scrub: Replace personal data in question, passage and answers.
        names: Replace names of people too, by the packaged tagger (extra ``names``), which takes
            milliseconds a record. Off where the answers are names: public figures of an
            encyclopaedia are no personal data, and without them the questions have no answer.
    """

    checks: tuple[str, ...] = ("readable",)
    near_duplicates: bool = True
    scrub: bool = True
    names: bool = False


@dataclass(frozen=True)
class CleaningResult:
    """What became of a record.

    Attributes:
        record: As cleaned; None when it was dropped.
        reason: Why it was dropped.
        dedup_key: What a duplicate of it would have too.
    """

    record: Record | None
    reason: str = ""
    dedup_key: str = ""


def clean_record(record: Record, plan: CleaningPlan, seen: set[str]) -> CleaningResult:
    """Clean one record and add its mark to ``seen``.

    Args:
        record: As it was read.
        plan: What to do.
        seen: Marks of the records kept so far.
    """
    tidy = _collapse_whitespace(record)
    for name in plan.checks:
        if reason := QUALITY_CHECKS[name](tidy):
            return CleaningResult(None, reason)
    if plan.scrub:
        tidy = _replace_text(tidy, scrub_identifiers)
    if plan.names:
        tidy = _replace_text(tidy, scrub_names)
    mark = _words_digest(f"{tidy.passage}\n{tidy.question}") if plan.near_duplicates else tidy.key
    if mark in seen:
        return CleaningResult(None, "duplicate")
    seen.add(mark)
    return CleaningResult(tidy, dedup_key=mark)


@lru_cache(maxsize=1024)  # many questions share a passage
def scrub_identifiers(text: str) -> str:
    """Replace e-mail and IP addresses, phone, card, account and social security numbers."""
    for name, pattern in _IDENTIFIER_PATTERNS.items():
        if name == "CARD":
            text = pattern.sub(lambda m: "<CARD>" if _passes_luhn(m.group()) else m.group(), text)
        else:
            text = pattern.sub(f"<{name}>", text)
    return text


@lru_cache(maxsize=1024)
def scrub_names(text: str) -> str:
    """Replace names of people; see ``bem_fleet.data.person_names``.

    Raises:
        DataNotFoundError: The tagger is not installed.
    """
    try:
        tagger = import_module("bem_fleet.data.person_names")
    except ModuleNotFoundError as err:
        raise DataNotFoundError(
            f"a plan that scrubs names needs the extra 'names': {err.name} is not installed"
        ) from err
    replaced: str = tagger.scrub_names(text)
    return replaced


def _collapse_whitespace(record: Record) -> Record:
    """Collapse blanks everywhere; the key follows the text."""
    question, passage = (" ".join(text.split()) for text in (record.question, record.passage))
    answers = tuple(" ".join(answer.split()) for answer in record.answers)
    return make_record(
        question, passage, answers, category=record.category, labels=dict(record.labels)
    )


def _replace_text(record: Record, replace_in: Callable[[str], str]) -> Record:
    question, passage = replace_in(record.question), replace_in(record.passage)
    answers = tuple(replace_in(answer) for answer in record.answers)
    if (question, passage, answers) == (record.question, record.passage, record.answers):
        return record
    new = make_record(question, passage, answers, category=record.category)
    return replace(new, labels={**record.labels, "scrubbed": 1.0})


def _words_digest(text: str) -> str:
    """Return a digest of the words alone: marks of a large set fit into memory."""
    words = " ".join(_WORD.findall(text.lower()))
    return hashlib.sha256(words.encode()).hexdigest()[:24]


def _passes_luhn(number: str) -> bool:
    """Check a card number's digits (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed([int(c) for c in number if c.isdigit()])):
        double = digit * 2 if place % 2 else digit
        total += double - 9 if double > 9 else double
    return total % 10 == 0


def _check_readable(record: Record) -> str:
    text = record.question + record.passage
    if not record.question:
        return "empty"
    if len(text) > _MAX_CHARS:
        return "too long"
    if "\ufffd" in text or any(ord(c) < 32 for c in text):
        return "broken encoding"
    return ""


def _check_answered(record: Record) -> str:
    return "" if any(record.answers) else "no answer"


def _check_extractable(record: Record) -> str:
    """An answer that is not in its passage cannot be extracted."""
    if not record.answers or not record.answers[0]:
        return "no answer"
    return "" if record.answers[0].lower() in record.passage.lower() else "answer not in passage"


QUALITY_CHECKS: dict[str, QualityCheck] = {
    "readable": _check_readable,
    "answered": _check_answered,
    "extractable": _check_extractable,
}
