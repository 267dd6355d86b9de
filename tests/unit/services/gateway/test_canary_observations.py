"""Pairing of request outcomes."""

import asyncio
from typing import Any

import redis
from bem_fleet.services.gateway.canary_observations import CanaryObserver, RequestOutcome
from bemfleet.canary.v1 import canary_pb2
from fleet.testing import RedisServer

STABLE, CANARY = RequestOutcome(0.25), RequestOutcome(0.5, failed=True)


async def test_outcomes_are_paired_in_order_of_arrival(redis_server: RedisServer) -> None:
    """An outcome of the canary takes the oldest one of stable; the entry is one proto."""
    observer = CanaryObserver(redis_server.url)
    observer.set_active_canaries({"c"})
    running = asyncio.create_task(observer.run())
    observer.record_canary("c", CANARY)  # no partner yet
    observer.record_stable("c", STABLE)
    observer.record_canary("c", CANARY)
    observer.record_pair("c", STABLE, STABLE)
    entries: Any = []
    with redis.from_url(redis_server.url) as client:
        async with asyncio.timeout(10):
            while len(entries) < 2:
                await asyncio.sleep(0.01)
                entries = client.xrange("bem:canary:c")
    running.cancel()
    await observer.close()

    pairs = [canary_pb2.PairObservation.FromString(fields[b"pair"]) for _, fields in entries]
    assert [(pair.version, pair.canary.failed) for pair in pairs] == [(2, True), (2, False)]
    assert (pairs[0].stable.latency_s, pairs[0].canary.latency_s) == (0.25, 0.5)


async def test_state_of_canaries_that_ended_is_dropped() -> None:
    """A new table keeps its own canaries only; late outcomes of others are dropped."""
    observer = CanaryObserver("redis://127.0.0.1:1/0")
    for number in range(100):
        observer.set_active_canaries({f"c{number}", "kept"})
        observer.record_stable(f"c{number}", STABLE)
        observer.record_stable(f"c{number - 1}", STABLE)
    await observer.close()

    assert set(observer.active_canaries) == {"c99", "kept"}


async def test_pairs_that_wait_survive_the_end_of_the_process(redis_server: RedisServer) -> None:
    """A restart loses no pair, written or not, and keeps their order and all that they say."""
    observer = CanaryObserver(redis_server.url)
    whole = RequestOutcome(0.5, empty=True, truncated=True)
    for _ in range(250):
        observer.record_pair("c", STABLE, CANARY)
    observer.record_pair("c", STABLE, whole)
    running = asyncio.create_task(observer.run())
    await asyncio.sleep(0)  # the first ones are being written
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await observer.close()
    with redis.from_url(redis_server.url) as client:
        entries: Any = client.xrange("bem:canary:c")
    pairs = [canary_pb2.PairObservation.FromString(fields[b"pair"]) for _, fields in entries]

    assert len(pairs) >= 251
    assert (pairs[-1].canary.empty, pairs[-1].canary.truncated) == (True, True)
    assert not pairs[0].canary.empty
