"""Record cleaning: quality checks, deduplication and removal of personal data."""

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
# The placeholder names the kind of identifier, so that a scrubbed sentence stays readable.
_IDENTIFIER_PATTERNS = {
    "EMAIL": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "CARD": re.compile(r"\b\d(?:[ -]?\d){12,18}\b"),
    "SSN": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "IP": re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
    "PHONE": re.compile(r"(?<![\w-])(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"),
}

QualityCheck = Callable[[Record], str]
"""Function from a record to the reason for dropping it; empty keeps the record."""


@dataclass(frozen=True)
class CleaningPlan:
    """Cleaning settings of a dataset.

    Attributes:
        checks: Keys of ``QUALITY_CHECKS`` in order; the first failing check gives the reason.
        near_duplicates: Whether records with the words of an earlier record are dropped,
            regardless of case, punctuation and whitespace; otherwise only equal keys are dropped.
        scrub: Whether identifiers in question, passage and answers are replaced.
        names: Whether names of people are replaced too, by the packaged tagger (extra ``names``),
            at some milliseconds per record. Keep it off where answers are names: public figures
            of an encyclopaedia are not personal data.
    """

    checks: tuple[str, ...] = ("readable",)
    near_duplicates: bool = True
    scrub: bool = True
    names: bool = False


@dataclass(frozen=True)
class CleaningResult:
    """Result of cleaning one record.

    Attributes:
        record: Cleaned record; None when it was dropped.
        reason: Reason for dropping the record; empty when it was kept.
        dedup_key: Key that duplicates of the record share.
    """

    record: Record | None
    reason: str = ""
    dedup_key: str = ""


def clean_record(record: Record, plan: CleaningPlan, seen: set[str]) -> CleaningResult:
    """Clean one record and add its dedup key to ``seen``.

    Args:
        record: Record as read from the source.
        plan: Cleaning settings.
        seen: Dedup keys of the records kept so far; changed in place.
    """
    cleaned = _collapse_whitespace(record)
    for name in plan.checks:
        if reason := QUALITY_CHECKS[name](cleaned):
            return CleaningResult(None, reason)
    if plan.scrub:
        cleaned = _replace_text(cleaned, scrub_identifiers)
    if plan.names:
        cleaned = _replace_text(cleaned, scrub_names)
    words = f"{cleaned.passage}\n{cleaned.question}"
    key = _words_digest(words) if plan.near_duplicates else cleaned.key
    if key in seen:
        return CleaningResult(None, "duplicate")
    seen.add(key)
    return CleaningResult(cleaned, dedup_key=key)


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
    """Replace names of people by a placeholder; see ``bem_fleet.data.person_names``.

    Raises:
        DataNotFoundError: The tagger is not installed.
    """
    try:
        tagger = import_module("bem_fleet.data.person_names")
    except ModuleNotFoundError as err:
        raise DataNotFoundError(
            f"names: {err.name} is not installed; install the extra 'names'"
        ) from err
    replaced: str = tagger.scrub_names(text)
    return replaced


def _collapse_whitespace(record: Record) -> Record:
    """Collapse whitespace in all texts and recompute the key."""
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
    """Return a digest of the lower-cased words; digests of a large dataset fit into memory."""
    words = " ".join(_WORD.findall(text.lower()))
    return hashlib.sha256(words.encode()).hexdigest()[:24]


def _passes_luhn(number: str) -> bool:
    """Return whether a card number has a valid check digit (Luhn, ISO/IEC 7812-1)."""
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
    """Require a first answer that occurs in the passage, for extractive questions."""
    if not record.answers or not record.answers[0]:
        return "no answer"
    return "" if record.answers[0].lower() in record.passage.lower() else "answer not in passage"


QUALITY_CHECKS: dict[str, QualityCheck] = {
    "readable": _check_readable,
    "answered": _check_answered,
    "extractable": _check_extractable,
}
