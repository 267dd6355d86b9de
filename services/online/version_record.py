"""Version records: what a version was learned from, its state, and what was decided about it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from bem.errors import DataFormatError

Batches = tuple[tuple[str, ...], ...]
"""Ids of the events of a condition, in the batches in which they were learned."""

BASE = 0
"""Number of the base model without conditions."""

LEARNER = "learner"
"""Name in a history of the process that learns; operators have the names of their keys."""


class VersionState(StrEnum):
    """State of a version."""

    SHADOW = "shadow"
    LIVE = "live"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Decision:
    """One decision about a version.

    Attributes:
        unix_s: Time, in seconds since the epoch.
        action: What was done.
        by: Who did it.
        reason: Why it was done.
    """

    unix_s: int
    action: str
    by: str
    reason: str


@dataclass(frozen=True)
class VersionRecord:
    """Lineage, state and history of one version.

    Attributes:
        number: Number, from 1; the store gives it.
        parent: Version that it was learned from.
        changed: Condition that it changed; empty for none.
        digest: Hash of the card of its codebook.
        lineage: Events behind each condition.
        forgotten: Number of the last forgetting that the events reflect.
        users: Number of people behind each condition.
        state: What became of it so far.
        history: Decisions, oldest first.
    """

    parent: int
    changed: str
    digest: str
    lineage: Mapping[str, Batches]
    forgotten: int
    users: Mapping[str, int] = field(default_factory=dict)
    number: int = 0
    state: VersionState = VersionState.SHADOW
    history: tuple[Decision, ...] = ()

    def events(self, condition: str = "") -> frozenset[str]:
        """Return the ids of the events behind one condition, or behind all."""
        named = [condition] if condition else list(self.lineage)
        return frozenset(
            event for name in named for batch in self.lineage.get(name, ()) for event in batch
        )

    def decided(self, action: str, by: str, reason: str, state: VersionState) -> "VersionRecord":
        """Return the record with a new state and one decision more."""
        made = Decision(int(time.time()), action, by, reason)
        return replace(self, state=state, history=(*self.history, made))

    def to_json(self) -> str:
        """Return the record as JSON, which ``parse_version`` reads."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_version(text: str | bytes) -> VersionRecord:
    """Return the record of its JSON.

    Raises:
        DataFormatError: A field is missing, unknown or malformed.
    """
    try:
        row: dict[str, Any] = json.loads(text)
        given = {
            "lineage": {name: _batches(one) for name, one in row["lineage"].items()},
            "users": {str(name): int(one) for name, one in row["users"].items()},
            "state": VersionState(row["state"]),
            "history": tuple(Decision(**one) for one in row["history"]),
        }
        return VersionRecord(**{**row, **given})
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise DataFormatError(f"version: the record is malformed: {err!r}") from err


def _batches(rows: Sequence[Sequence[str]]) -> Batches:
    return tuple(tuple(str(event) for event in batch) for batch in rows)
