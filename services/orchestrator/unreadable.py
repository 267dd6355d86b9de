"""Missions that cannot be read: their status or specification has what no version here writes.

The CRD's schema keeps most of it out. A status of a later version, or one that a person has edited,
may still hold an unknown phase or a text in place of a number. Such a Mission is left alone, with
its pods as they are, and says so in a condition; all others go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""Errors of reading content that has another form than expected."""


@dataclass(frozen=True)
class UnreadableMission:
    """A Mission that cannot be read.

    Attributes:
        raw: The object as the API server returned it.
        key: Namespace and name, ``namespace/name``.
        workload: Name of the mission's Deployment.
        reason: Problem of its content.
    """

    raw: Object
    key: str
    workload: str
    reason: str


def unreadable_mission(raw: Object, error: Exception) -> UnreadableMission:
    """Return what is known of a Mission whose reading raised an error."""
    metadata = raw["metadata"]
    spec = raw.get("spec")
    named = spec.get("workload") if isinstance(spec, Mapping) else None
    return UnreadableMission(
        raw=raw,
        key=f"{metadata['namespace']}/{metadata['name']}",
        workload=str(named or metadata["name"]),
        reason=describe(error),
    )


def describe(error: Exception) -> str:
    """Return kind and text of an error."""
    return f"{type(error).__name__}: {error}"[:300]


def unreadable_patch(mission: UnreadableMission) -> Object | None:
    """Return the status with a condition that says what to do; None if the Mission has it."""
    status = mission.raw.get("status") or {}
    wanted = _condition(mission.raw, mission.reason)
    given = [one for one in status.get("conditions") or () if isinstance(one, dict)]
    if any(
        (one.get("type"), one.get("message")) == ("Readable", wanted["message"]) for one in given
    ):
        return None
    others = [one for one in given if one.get("type") != "Readable"]
    return {"status": {"conditions": [*others, wanted]}}


def _condition(raw: Object, reason: str) -> Object:
    name = raw["metadata"]["name"]
    mend = f"kubectl patch mission {name} --subresource=status --type=merge -p"
    return {
        "type": "Readable",
        "status": "False",
        "reason": "Unreadable",
        "message": f"{reason}; nothing is changed until it is mended, for example by "
        f'`{mend} \'{{"status":{{"canary":null}}}}\'`',
        "observedGeneration": raw["metadata"].get("generation", 0),
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
