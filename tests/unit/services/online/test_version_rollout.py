"""Promotion, restoring and forgetting of versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from bem_fleet.services.online.version_record import VersionState
from fleet.errors import FailedPreconditionError
from fleet.testing import RedisServer

from tests.support.feedback import drain, intake, user
from tests.support.feedback import record as feedback
from tests.unit.services.online.hosts import FAMILY, OTHER, codebook, record, rollout

TAUGHT = [f"zzzzzz qq zzzzzz {n}" for n in range(8)]
OTHERS = [f"The number {n} train leaves the town." for n in range(8)]


async def test_restored_version_answers_bit_for_bit(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Promotions and restores change what is served; the records say who decided what and why."""
    async with rollout(tmp_path, redis_server) as (made, answering):
        await made.refresh()
        book = await codebook(answering, TAUGHT)
        first = await made.store.add(record(), book)
        base = await answering.answer(TAUGHT[0], max_tokens=8)
        await made.promote(first.number, "ann", "it is right")
        learned = await answering.answer(TAUGHT[0], max_tokens=8)
        second = await made.store.add(record(("2-0",), parent=1), book.without(FAMILY))
        await made.promote(second.number, "ann", "x")
        await made.restore(1, "bob", "it was better")
        again = await answering.answer(TAUGHT[0], max_tokens=8)
        await made.restore(0, "bob", "back")
        last = await answering.answer(TAUGHT[0], max_tokens=8)
        with pytest.raises(FailedPreconditionError, match="2 is rolled_back; only a version in"):
            await made.promote(2, "ann", "x")
        records = await made.store.records()

    assert learned.text == again.text != base.text == last.text
    assert [one.state for one in records] == [VersionState.ROLLED_BACK] * 2
    assert [(one.action, one.by) for one in records[0].history] == [
        *(("promote", "ann"), ("retire", "learner"), ("restore", "bob"), ("roll back", "bob")),
    ]


async def test_version_of_another_parent_is_not_promoted(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """It would drop what was learned meanwhile; a version that was never live is not restored."""
    async with rollout(tmp_path, redis_server) as (made, answering):
        book = await codebook(answering, TAUGHT)
        for _ in range(2):
            await made.store.add(record(), book)
        await made.promote(1, "ann", "x")
        with pytest.raises(FailedPreconditionError, match="2 was learned from 0, and 1 is live"):
            await made.promote(2, "ann", "x")
        with pytest.raises(FailedPreconditionError, match="2 is shadow; only a version that was"):
            await made.restore(2, "ann", "x")


async def test_forgotten_user_leaves_versions_and_redis(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Conditions that the user taught are withdrawn at once; those of others stay as they are."""
    async with intake(redis_server.url) as opened:
        for number in range(2):
            await opened.submit(feedback(number, user=user(number), prompt=f"p{number}"))
    await drain(redis_server.url)
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        events = {
            one.split(" ")[0]: event for event, one in client.hgetall("bem:feedback:events").items()
        }
    lineage = {FAMILY: ((events[user(0)],),), OTHER: ((events[user(1)],),)}
    async with rollout(tmp_path, redis_server) as (made, answering):
        book = await codebook(answering, TAUGHT)
        other = (await codebook(answering, OTHERS, OTHER))[OTHER]
        await made.store.add(record(lineage=lineage), book.with_condition(other))
        await made.promote(1, "ann", "x")
        kept = await answering.answer(OTHERS[0], max_tokens=8)
        done = await made.forget(user(0), "ann")
        after = await answering.answer(TAUGHT[0], max_tokens=8)
        still = await answering.answer(OTHERS[0], max_tokens=8)
        records = await made.store.records()

    assert (done.removed, done.withdrawn, done.live) == (1, (1,), 2)
    assert (after.condition, still.condition) == ("", OTHER)
    assert still.text == kept.text
    assert [one.state for one in records] == [VersionState.WITHDRAWN, VersionState.LIVE]
    assert set(records[1].lineage) == {OTHER}
