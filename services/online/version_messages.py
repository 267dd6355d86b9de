"""Messages of versions and explanations."""

from bem_fleet.services.online.explanation import Explanation
from bem_fleet.services.online.version_record import Decision, VersionRecord, VersionState
from bemfleet.online.v1 import online_pb2 as pb

_STATES = {one: pb.VersionState.Value(f"VERSION_STATE_{one.name}") for one in VersionState}


def version_message(record: VersionRecord) -> pb.Version:
    """Return the message of a version."""
    return pb.Version(
        number=record.number,
        parent=record.parent,
        state=_STATES[record.state],
        digest=record.digest,
        changed=record.changed,
        events={name: len(record.events(name)) for name in record.lineage},
        history=[history_message(one) for one in record.history],
    )


def history_message(decision: Decision) -> pb.HistoryEntry:
    """Return the message of a decision."""
    return pb.HistoryEntry(**vars(decision))


def explanation_message(found: Explanation) -> pb.ExplainResponse:
    """Return the message of an explanation."""
    return pb.ExplainResponse(
        version=found.version,
        condition=found.condition,
        events=[
            pb.LearnedEvent(
                id=one.identifier,
                kind=one.kind,
                received_unix_ms=one.received_unix_ms,
                answer_id=one.answer_id,
            )
            for one in found.events
        ],
        users=found.users,
        history=[history_message(one) for one in found.history],
    )
