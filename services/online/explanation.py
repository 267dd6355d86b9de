"""Explanation: which feedback changed an answer, without the texts of those who gave it."""

from dataclasses import dataclass

from bem_fleet.feedback.event_store import EventStore
from bem_fleet.services.online.version_record import BASE, Decision
from bem_fleet.services.online.version_store import VersionStore


@dataclass(frozen=True)
class ExplainedEvent:
    """One piece of feedback.

    Attributes:
        identifier: Id of its entry.
        kind: ``edit``, ``correction``, ``rating`` or another kind; empty if it is no longer kept.
        received_unix_ms: Time of arrival, in milliseconds since the epoch; 0 likewise.
        answer_id: Answer that it was about; empty likewise.
    """

    identifier: str
    kind: str = ""
    received_unix_ms: int = 0
    answer_id: str = ""


@dataclass(frozen=True)
class Explanation:
    """Which feedback changed an answer.

    Attributes:
        version: Version that answered; 0 is the base model.
        condition: Condition that the prompt met; empty where the base model answered.
        events: Feedback that taught the condition, oldest first.
        users: Number of people who gave it.
        history: What was decided about the version.
    """

    version: int
    condition: str = ""
    events: tuple[ExplainedEvent, ...] = ()
    users: int = 0
    history: tuple[Decision, ...] = ()


async def explain(
    store: VersionStore, events: EventStore, version: int, condition: str
) -> Explanation:
    """Return which feedback changed an answer.

    Args:
        store: Versions in Redis.
        events: Events of the feedback queue.
        version: Version that answered.
        condition: Condition that the prompt met; empty for none.

    Raises:
        NotFoundError: There is no such version.
        UnavailableError: Redis does not answer.
    """
    if version == BASE:
        return Explanation(version)
    record = await store.record(version)
    if not condition:
        return Explanation(version, history=record.history)
    kept = {one.identifier: one.content for one in (await events.family(condition)).events}
    learned = []
    for identifier in sorted(record.events(condition), key=_age):
        content = kept.get(identifier)
        learned.append(
            ExplainedEvent(
                identifier,
                content["kind"],
                content["received_unix_ms"],
                content["completion_id"],
            )
            if content
            else ExplainedEvent(identifier)
        )
    users = record.users.get(condition, 0)
    return Explanation(version, condition, tuple(learned), users, record.history)


def _age(identifier: str) -> tuple[int, ...]:
    return tuple(map(int, identifier.split("-")))
