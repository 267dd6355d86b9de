"""Session cache: the same as Redis after restarts, changes elsewhere, failures."""

import pytest
from bem.errors import InvalidRequestError
from bem.memory import SessionConfig, SessionMemory, snapshot
from bem_fleet.services.memory.session_cache import SessionCache
from bem_fleet.services.memory.session_keys import SessionKey
from bem_fleet.services.memory.session_store import SessionChangedError
from fleet.errors import FailedPreconditionError, NotFoundError
from fleet.testing import RedisServer

from tests.unit.bem.memory.sessions import encoder, haystack
from tests.unit.services.memory.hosts import KEY, MODEL, cache_of, stored

CONFIG = SessionConfig(budget_bytes=64 * 1024)


async def write(cache: SessionCache, *texts: str, key: SessionKey = KEY) -> None:
    """Write texts into a session, which is made if needed."""
    for text in texts:
        async with cache.use(key) as session:
            if session.memory is None:
                await cache.adopt(session, SessionMemory(CONFIG, encoder().modules))
            batch = encoder().batch(session.content.cursor, text, "book", ends=False)
            await cache.write(session, batch)


async def content(cache: SessionCache) -> bytes:
    """Return the session as bytes, without changing it."""
    async with cache.use(KEY) as session:
        return snapshot.dump(session.content, MODEL)


async def test_restarted_process_has_the_same_session(redis_server: RedisServer) -> None:
    """A second cache, before and after a compaction, reads what the first one has."""
    async with stored(redis_server) as store:
        for parts in (3, 6):
            first = cache_of(store, compact_batches=5)
            await write(first, *(haystack(9, 10 * n) for n in range(parts)))

            assert await content(cache_of(store)) == await content(first)


async def test_change_elsewhere_is_seen(redis_server: RedisServer) -> None:
    """Two processes see each other's writes and removals."""
    async with stored(redis_server) as store:
        one, two = cache_of(store), cache_of(store)
        await write(one, "Ada left. Then")
        await write(two, " Bo came. Then")
        assert await content(one) == await content(two)
        async with two.use(KEY) as session:
            assert await two.forget(session, "") == 2
        with pytest.raises(NotFoundError, match="'notes' does not exist"):
            await content(one)


async def test_failed_write_leaves_what_redis_has(redis_server: RedisServer) -> None:
    """A session that changed during a call is read again after the error."""
    async with stored(redis_server) as store:
        one, two = cache_of(store), cache_of(store)
        await write(one, "Ada left. ")

        async def overtaken() -> None:
            async with one.use(KEY) as session:
                batch = encoder().batch(session.content.cursor, "Lost. ", "book", ends=False)
                await write(two, "Bo came. ")
                await one.write(session, batch)

        with pytest.raises(SessionChangedError):
            await overtaken()

        assert await content(one) == await content(two)


async def test_capacity_bounds_the_sessions_of_the_process(redis_server: RedisServer) -> None:
    """Sessions beyond the capacity leave the process and are read again when they are used."""
    async with stored(redis_server) as store:
        cache = cache_of(store, capacity=1)
        for name in ("a", "b", "c"):
            await write(cache, f"Note {name}. End", key=SessionKey(KEY.owner, name))
        async with cache.use(SessionKey(KEY.owner, "a")) as session:
            assert session.content.counts.written == 1
        async with cache.use(KEY) as session:
            assert session.memory is None

        assert len(cache._sessions) <= 1


async def test_one_stream_writes_at_a_time(redis_server: RedisServer) -> None:
    """A second stream and a removal are refused while a stream is writing."""
    async with stored(redis_server) as store:
        cache = cache_of(store)
        await write(cache, "Ada left. ")
        async with cache.writing(KEY), cache.use(KEY) as session:
            with pytest.raises(FailedPreconditionError, match="being written by another call"):
                async with cache.writing(KEY):
                    pass
            with pytest.raises(FailedPreconditionError, match="being written by another call"):
                await cache.forget(session, "")
        async with cache.writing(KEY):
            pass


async def test_forgotten_document_is_gone_from_redis(redis_server: RedisServer) -> None:
    """Neither snapshot nor journal keep a forgotten document; an unknown one is an error."""
    async with stored(redis_server) as store:
        cache = cache_of(store)
        await write(cache, "The code of Rina is 4711. Zuletzt")
        async with cache.use(KEY) as session:
            removed = await cache.forget(session, "book")
        read = await store.read(KEY)
        with pytest.raises(InvalidRequestError, match="'book' is not in this session"):
            async with cache.use(KEY) as session:
                await cache.forget(session, "book")

        assert removed == 1
        assert read is not None
        assert read.snapshot is not None
        assert not read.batches
        assert b"Zuletzt" not in read.snapshot
        assert not _holds(read.snapshot)


def _holds(content: bytes) -> bool:
    """Return whether a snapshot has a slot with the code."""
    memory = snapshot.load(content, encoder().modules, MODEL)
    return bool(len(memory.store)) or bool(memory.state.state.any())
