"""Feedback consumer on a real Redis: claims, poison, gauges and groups."""

import asyncio
from typing import Any

import pytest
import redis
from bem_fleet.feedback.consumer import ConsumerTiming
from bem_fleet.feedback.limits import ProcessorLimits
from bem_fleet.feedback.record import FeedbackRecord
from fleet.errors import UnavailableError
from fleet.testing import RedisServer
from prometheus_client import REGISTRY

from tests.support.feedback import BOUNDLESS, consumer, intake, places, record
from tests.support.waiting import eventually

AT_ONCE = ConsumerTiming(batch=16, block_s=0.01, claim_idle_s=0.001, upkeep_s=0.0)
"""Rounds that take over whatever is pending."""


async def submit(server: RedisServer, count: int) -> None:
    """Send feedback with distinct completions."""
    async with intake(server.url) as opened:
        for number in range(count):
            await opened.submit(record(number))


def deliver(server: RedisServer, name: str) -> Any:
    """Deliver everything to a consumer that dies before any effect."""
    with redis.Redis.from_url(server.url) as store:
        return store.xreadgroup("processor", name, {"bem:feedback": ">"}, count=100)


def accepted(server: RedisServer) -> int:
    """Return the number of entries that became events."""
    with redis.Redis.from_url(server.url) as store:
        return int(store.hget("bem:feedback:totals", "accepted") or 0)


async def test_entries_of_a_dead_consumer_are_claimed(redis_server: RedisServer) -> None:
    """What was delivered and never acknowledged has its effect once, by another consumer."""
    async with consumer(redis_server.url, timing=AT_ONCE) as one:
        await one.round()
        await submit(redis_server, 20)
        deliver(redis_server, "dead")
        await asyncio.sleep(0.01)
        claimed = await one.round()
        totals = await one.store.totals()

    assert (claimed, totals) == (20, {"accepted": 20})
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(20)}


async def test_two_deliveries_have_one_effect(redis_server: RedisServer) -> None:
    """An entry that two consumers process at once is applied by one; the other learns it."""
    await submit(redis_server, 30)
    async with (
        consumer(redis_server.url, timing=AT_ONCE) as first,
        consumer(redis_server.url, timing=AT_ONCE) as second,
    ):
        while sum(await asyncio.gather(first.round(), second.round())):
            pass
        totals = await first.store.totals()

    assert totals == {"accepted": 30}
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(30)}


async def test_entry_that_always_fails_ends_alone(redis_server: RedisServer) -> None:
    """An unexpected error is tried again up to the limit; its neighbours are not affected."""
    tried: list[str] = []

    def family_of(one: FeedbackRecord) -> str:
        tried.append(one.completion_id)
        if one.completion_id == "c3":
            raise RuntimeError(one.correction)
        return "family"

    await submit(redis_server, 6)
    limits = ProcessorLimits(deliveries=3, user_share=99)
    async with consumer(
        redis_server.url, family_of=family_of, limits=limits, timing=AT_ONCE
    ) as one:
        for _ in range(6):
            await one.round()
            await asyncio.sleep(0.005)
        (letter,) = await one.dead_letters.page()

    assert letter.reason == "processing: RuntimeError at each of 3 deliveries"
    assert tried.count("c3") == 3
    assert len(tried) == 3 + 5
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(6)}


async def test_killer_of_its_process_is_isolated(redis_server: RedisServer) -> None:
    """Only the entry that ends each process runs out of deliveries: claims go one at a time."""

    class KilledError(BaseException):
        """The process ends here."""

    def family_of(one: FeedbackRecord) -> str:
        if one.completion_id == "c2":
            raise KilledError
        return "family"

    await submit(redis_server, 8)
    deaths = 0
    for _ in range(12):
        async with consumer(
            redis_server.url, family_of=family_of, limits=BOUNDLESS, timing=AT_ONCE
        ) as one:
            try:
                await one.round()
            except KilledError:
                deaths += 1
            letters = await one.dead_letters.page()
        await asyncio.sleep(0.005)

    assert deaths == BOUNDLESS.deliveries
    assert [b'"c2"' in letter.body for letter in letters] == [True]
    assert letters[0].reason == "deliveries: 5 without an effect; at most 5"
    assert places(redis_server.url) == {f"c{number}": 1 for number in range(8)}


async def test_gauges_show_backlog_and_oldest_age(redis_server: RedisServer) -> None:
    """Backlog and age are those of entries without an effect, also of delivered ones."""
    with redis.Redis.from_url(redis_server.url) as store:
        store.xadd("bem:feedback", {"v": 1}, id="1000-0")
        store.hset("bem:feedback:bodies", "1000-0", record(50).to_json())
        await submit(redis_server, 3)
        now_s = store.time()[0]
    async with consumer(redis_server.url, timing=AT_ONCE) as one:
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        for gauges in (before, after):
            await one.round()
            for name in ("backlog_entries", "oldest_age_seconds", "events", "dead_letters_room"):
                gauges[name] = REGISTRY.get_sample_value(f"bem_feedback_{name}")

    assert (before["backlog_entries"], before["events"]) == (4, 0)
    assert before["oldest_age_seconds"] == pytest.approx(now_s - 1, abs=60)
    assert (after["backlog_entries"], after["events"]) == (0, 4)
    assert after["oldest_age_seconds"] < 60
    assert after["dead_letters_room"] == BOUNDLESS.dead_letters


async def test_idle_consumers_without_entries_are_removed(redis_server: RedisServer) -> None:
    """A consumer that still has entries stays until they are claimed."""
    timing = ConsumerTiming(block_s=0.01, claim_idle_s=60, upkeep_s=0, remove_idle_s=0.001)
    async with consumer(redis_server.url, timing=timing) as one:
        await one.round()
        await submit(redis_server, 1)
        deliver(redis_server, "with-entries")
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as store:
            store.xgroup_createconsumer("bem:feedback", "processor", "without")
            await asyncio.sleep(0.01)
            await one.round()
            names = {each["name"] for each in store.xinfo_consumers("bem:feedback", "processor")}

    assert "with-entries" in names
    assert "without" not in names


async def test_new_redis_gets_a_group(redis_server: RedisServer) -> None:
    """A consumer goes on after Redis lost everything, and after a group was removed."""
    async with consumer(redis_server.url) as one:
        running = asyncio.create_task(one.run())
        for lose in ("FLUSHALL", "XGROUP DESTROY bem:feedback processor"):
            await submit(redis_server, 2)
            await eventually(lambda: accepted(redis_server) >= 2, 30)
            with redis.Redis.from_url(redis_server.url) as store:
                store.execute_command(*lose.split())
                if lose != "FLUSHALL":
                    store.delete("bem:feedback:totals")
        for number in (2, 3):
            async with intake(redis_server.url) as opened:
                await opened.submit(record(number))
        await eventually(lambda: accepted(redis_server) >= 2, 30)
        running.cancel()

    assert places(redis_server.url) == {f"c{number}": 1 for number in range(4)}


async def test_lost_redis_ends_a_round(redis_server: RedisServer) -> None:
    """Without Redis a round is an error, and nothing was processed."""
    async with consumer(redis_server.url) as one:
        redis_server.kill()
        with pytest.raises(UnavailableError):
            await one.round()
