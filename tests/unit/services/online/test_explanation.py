"""Explanations of answers."""

from __future__ import annotations

import pytest
from bem_fleet.feedback.event_store import EventStore
from bem_fleet.services.online.explanation import ExplainedEvent, explain
from bem_fleet.services.online.version_messages import explanation_message, version_message
from bemfleet.online.v1 import online_pb2 as pb
from fleet.errors import NotFoundError
from fleet.testing import RedisServer

from tests.support.feedback import drain, intake
from tests.support.feedback import record as feedback
from tests.unit.services.online.hosts import FAMILY, bank, record, version_store


async def test_events_are_named_without_texts(redis_server: RedisServer) -> None:
    """Kind, time and answer of what is kept; an event that is gone keeps its id only."""
    async with intake(redis_server.url) as opened:
        receipt = await opened.submit(feedback(1, received_unix_ms=5))
    await drain(redis_server.url, family_of=lambda _: FAMILY)
    events = EventStore(redis_server.url)
    async with version_store(redis_server) as store:
        lineage = ("1-0", receipt.identifier)
        made = await store.add(record(lineage, users={FAMILY: 2}), bank().empty_codebook())
        found = await explain(store, events, made.number, FAMILY)
        outside = await explain(store, events, made.number, "")
        base = await explain(store, events, 0, "")
        with pytest.raises(NotFoundError, match="there is no version 9"):
            await explain(store, events, 9, FAMILY)
    events.close()
    message = explanation_message(found)

    assert found.events == (
        ExplainedEvent("1-0"),
        ExplainedEvent(receipt.identifier, "correction", 5, "c1"),
    )
    assert "question" not in str(message)
    assert "answer 1" not in str(message)
    assert (message.users, message.version) == (2, made.number)
    assert (outside.events, base.events) == ((), ())


def test_version_message_counts_events() -> None:
    """State, parent and the number of events of each condition."""
    message = version_message(record(("1-0", "2-0"), parent=3, number=4))

    assert (message.number, message.parent, dict(message.events)) == (4, 3, {FAMILY: 2})
    assert message.state == pb.VERSION_STATE_SHADOW
