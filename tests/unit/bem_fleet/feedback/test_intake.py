"""Feedback intake on a real Redis."""

import asyncio

import pytest
import redis
from bem_fleet.feedback.intake import Receipt
from bem_fleet.feedback.limits import IntakeLimits
from fleet.errors import (
    InvalidArgumentError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from fleet.testing import RedisServer, free_port

from tests.support.feedback import drain, intake, places, record, user


async def test_repeated_key_stores_once(redis_server: RedisServer) -> None:
    """A key gives the first id again, also to calls at once; no key stores each time."""
    async with intake(redis_server.url) as opened:
        receipts = await asyncio.gather(*(opened.submit(record(1), "k") for _ in range(20)))
        for _ in range(2):
            await opened.submit(record(2))

    assert len({receipt.identifier for receipt in receipts}) == 1
    assert sorted(receipt.repeated for receipt in receipts) == [False] + [True] * 19
    assert places(redis_server.url) == {"c1": 1, "c2": 2}


async def test_key_of_other_content_is_refused(redis_server: RedisServer) -> None:
    """A key that was used for something else is an error, not an acknowledgement."""
    async with intake(redis_server.url) as opened:
        await opened.submit(record(1), "k")
        with pytest.raises(InvalidArgumentError, match="idempotency_key: was used"):
            await opened.submit(record(2), "k")

    assert places(redis_server.url) == {"c1": 1}


async def test_keys_end_after_their_horizon(redis_server: RedisServer) -> None:
    """Redis removes a key after ``once_s``, and a user's window after ``rate_s``."""
    async with intake(redis_server.url, IntakeLimits(once_s=900, rate_s=60)) as opened:
        await opened.submit(record(1), "k")

    with redis.from_url(redis_server.url) as store:
        assert 890 < store.ttl("bem:feedback:once:k") <= 900
        assert 50 < store.ttl(f"bem:feedback:rate:{user(1)}") <= 60


async def test_user_has_a_rate_and_others_are_not_delayed(redis_server: RedisServer) -> None:
    """More than the rate is refused with the time to wait; a repeated key costs nothing."""
    async with intake(redis_server.url, IntakeLimits(rate=2, rate_s=60)) as opened:
        for number in (0, 7):
            await opened.submit(record(number), f"k{number}")
        with pytest.raises(RateLimitedError) as refused:
            await opened.submit(record(14), "k14")
        again = await opened.submit(record(7), "k7")
        await opened.submit(record(1))

    assert 0 < refused.value.retry_after_s <= 60
    assert again.repeated
    assert places(redis_server.url) == {"c0": 1, "c7": 1, "c1": 1}


async def test_full_backlog_refuses_until_it_is_processed(redis_server: RedisServer) -> None:
    """The queue takes no more than its limit, and more once entries have had their effect."""
    async with intake(redis_server.url, IntakeLimits(backlog=3)) as opened:
        for number in range(3):
            await opened.submit(record(number))
        with pytest.raises(OverloadedError, match="3 entries wait"):
            await opened.submit(record(3))
        await drain(redis_server.url)
        await opened.submit(record(3))

    assert places(redis_server.url) == {f"c{number}": 1 for number in range(4)}


async def test_calls_at_once_share_writes_and_get_their_own_outcomes(
    redis_server: RedisServer,
) -> None:
    """A group has a new record, a repeated one, a conflict and one above the rate, in any order."""
    calls = [(record(7 * n), f"k{n % 4}") for n in range(3)] + [
        (record(0), "k0"),
        (record(1), "k0"),
    ]
    with redis.from_url(redis_server.url) as store:
        store.config_resetstat()
        async with intake(redis_server.url, IntakeLimits(rate=2)) as opened:
            found = await asyncio.gather(
                *(opened.submit(*call) for call in calls), return_exceptions=True
            )
        writes = store.info("commandstats")["cmdstat_eval"]["calls"]

    first, second, above, again, conflict = found
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert isinstance(above, RateLimitedError)
    assert again == Receipt(first.identifier, repeated=True)
    assert isinstance(conflict, InvalidArgumentError)
    assert first.identifier < second.identifier
    assert writes == 1
    assert places(redis_server.url) == {"c0": 1, "c7": 1}


async def test_full_memory_refuses_what_is_new(redis_server: RedisServer) -> None:
    """In one group a repeated key has its receipt, and a new one is refused and not stored."""
    async with intake(redis_server.url) as opened:
        first = await opened.submit(record(1), "k1")
        with redis.from_url(redis_server.url) as store:
            store.config_set("maxmemory", 1)
        again, refused = await asyncio.gather(
            opened.submit(record(1), "k1"), opened.submit(record(2), "k2"), return_exceptions=True
        )

    assert again == Receipt(first.identifier, repeated=True)
    assert isinstance(refused, OverloadedError)
    assert "maxmemory" in str(refused)
    assert places(redis_server.url) == {"c1": 1}


async def test_absent_redis_is_unavailable_and_named() -> None:
    """The caller learns that nothing was acknowledged."""
    async with intake(f"redis://127.0.0.1:{free_port()}/0") as opened:
        with pytest.raises(UnavailableError, match="bem:feedback"):
            await opened.submit(record(1))
        with pytest.raises(UnavailableError):
            await opened.ping()
