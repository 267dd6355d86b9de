"""Session store on a real Redis: versions, quota, time to live, failures."""

import asyncio
from dataclasses import replace

import pytest
from bem_fleet.services.memory.session_store import (
    QuotaExceededError,
    SessionChangedError,
    StoredSession,
)
from fleet.errors import UnavailableError
from fleet.testing import RedisServer

from tests.unit.services.memory.hosts import KEY, stored


async def test_snapshot_and_journal_are_what_was_stored(redis_server: RedisServer) -> None:
    """Batches follow the snapshot; a new snapshot replaces both; a known version is not sent."""
    async with stored(redis_server) as store:
        assert await store.read(KEY) is None
        version = await store.replace(KEY, 0, b"s1")
        version = await store.append(KEY, version, b"\0b1")
        version = await store.append(KEY, version, b"b2")
        assert await store.read(KEY) == StoredSession(3, b"s1", [b"\0b1", b"b2"])
        version = await store.replace(KEY, version, b"s2")

        assert await store.read(KEY) == StoredSession(4, b"s2", [])
        assert await store.read(KEY, version) == StoredSession(4)


async def test_write_of_an_old_version_is_refused(redis_server: RedisServer) -> None:
    """Of two writers that know one version the second is told to retry, and changes nothing."""
    async with stored(redis_server) as store:
        await store.replace(KEY, 0, b"s1")
        await store.append(KEY, 1, b"b1")
        for call in (
            store.append(KEY, 1, b"x"),
            store.replace(KEY, 1, b"x"),
            store.replace(KEY, 0, b"x"),
            store.remove(KEY, 1),
        ):
            with pytest.raises(SessionChangedError, match="session notes: was changed"):
                await call

        assert await store.read(KEY) == StoredSession(2, b"s1", [b"b1"])


async def test_removed_session_leaves_no_key(redis_server: RedisServer) -> None:
    """Nothing of a removed session is in Redis, and it can be made again."""
    async with stored(redis_server) as store:
        await store.replace(KEY, 0, b"s1")
        await store.append(KEY, 1, b"b1")
        await store.remove(KEY, 2)
        keys = await store._redis.keys("*")

        assert keys == []
        assert await store.replace(KEY, 0, b"s2") == 1


async def test_quota_counts_sessions_that_have_not_ended(redis_server: RedisServer) -> None:
    """A fourth session of an owner is refused until one is removed; owners do not share it."""
    async with stored(redis_server) as store:
        for name in ("a", "b", "c"):
            await store.replace(replace(KEY, name=name), 0, b"s")
        with pytest.raises(QuotaExceededError, match="you have 3 sessions, which is the limit"):
            await store.replace(KEY, 0, b"s")
        await store.replace(replace(KEY, owner="11ee"), 0, b"s")
        await store.remove(replace(KEY, name="b"), 1)
        await store.replace(KEY, 0, b"s")

        assert [name for name, _ in await store.sessions(KEY.owner)] == ["a", "c", "notes"]


@pytest.mark.slow
async def test_unused_session_ends_and_use_renews_it(redis_server: RedisServer) -> None:
    """A session that is read lives on; one that is not read ends with all its keys."""
    async with stored(redis_server, ttl_s=2) as store:
        await store.replace(KEY, 0, b"s")
        other = replace(KEY, name="other")
        await store.replace(other, 0, b"s")
        for _ in range(6):
            await asyncio.sleep(0.5)  # the time to live is what is tested
            assert await store.read(KEY) is not None

        assert await store.read(other) is None
        assert [name for name, _ in await store.sessions(KEY.owner)] == ["notes"]


async def test_lost_redis_is_unavailable(redis_server: RedisServer) -> None:
    """Without Redis every call tells the client to retry."""
    async with stored(redis_server, timeout_s=5) as store:
        await store.ping()
        redis_server.kill()
        with pytest.raises(UnavailableError, match="memory: Redis"):
            await store.read(KEY)
