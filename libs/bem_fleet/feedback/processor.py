"""Feedback processor: decides what a scrubbed record means for the learner, without Redis."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bem_fleet.feedback.record import FeedbackRecord

FAMILY = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Name of a family, a part of keys in Redis."""

_SAMPLE_BYTES = 6  # an integer of 48 bits is exact in a double, as Redis keeps scores
_EVENT_FIELDS = (
    *("completion_id", "rating", "correction", "edit", "comment", "prompt", "answer"),
    *("tags", "session", "received_unix_ms"),
)

FamilyOf = Callable[[FeedbackRecord], str | Awaitable[str]]
"""Returns the family of a record: the name of what a change by it would change.

Records of one batch are named in the order of the stream: an asynchronous function that lets one
call in at a time sees them so.
"""


@dataclass(frozen=True)
class Effect:
    """What an entry becomes.

    Attributes:
        record: The record.
        family: Name of the family; empty if the entry only counts.
        content: JSON of what a learner may read; empty if the entry only counts.
        digest: Digest of user and content.
        priority: Rank in the sample of a full family; the smallest are kept.
    """

    record: FeedbackRecord
    family: str = ""
    content: str = ""
    digest: str = ""
    priority: int = 0


def family_by_prompt(record: FeedbackRecord) -> str:
    """Return a family for each prompt without regard to case and spaces, or for each answer.

    A learner that tells families apart by a model's states passes a function of its own.
    """
    text = " ".join(record.prompt.casefold().split()) or f"\0{record.completion_id}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def effect_of(identifier: str, record: FeedbackRecord, family: str) -> Effect:
    """Return the effect of an entry.

    Without consent the entry counts and nothing of it is kept.

    Args:
        identifier: Id of the entry. The sample of a full family depends on nothing else, so that
            the same stream gives the same sample in any order.
        record: Record of the entry.
        family: Name of its family; not read without consent.

    Raises:
        ValueError: The name of the family is malformed.
    """
    if not record.consent:
        return Effect(record)
    if not FAMILY.fullmatch(family):
        raise ValueError(
            f"family: {family[:80]!r} is no name; 1 to 64 lower-case letters, digits and hyphens"
        )
    content = {name: getattr(record, name) for name in _EVENT_FIELDS} | {"kind": record.kind}
    drawn = hashlib.sha256(f"{family}\0{identifier}".encode()).digest()[:_SAMPLE_BYTES]
    return Effect(
        record,
        family,
        json.dumps(content, ensure_ascii=False, sort_keys=True),
        record.content_digest(),
        int.from_bytes(drawn, "big"),
    )
