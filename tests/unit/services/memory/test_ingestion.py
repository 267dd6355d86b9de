"""Ingestion: progress, continuation, limits."""

from dataclasses import replace

import pytest
from bem.errors import InvalidRequestError
from bem_fleet.services.memory.answering import MemoryHost
from bem_fleet.services.memory.ingestion import MAX_TEXT_CHARS, Ingestion, Progress, ingest
from bem_fleet.services.memory.session_store import QuotaExceededError
from fleet.errors import FailedPreconditionError, InvalidArgumentError
from fleet.testing import RedisServer

from tests.unit.services.memory.hosts import KEY, host_of, parts, stored

WORK = Ingestion(KEY, "book", 0, 2**20, 1000)


async def read(host: MemoryHost, work: Ingestion, *texts: str | None) -> list[Progress]:
    """Ingest texts and return the progress after each."""
    return [one async for one in ingest(host, work, parts(*texts))]


async def test_progress_counts_what_is_durable(redis_server: RedisServer) -> None:
    """Characters, sentences and tokens are those so far; the end completes the document."""
    async with stored(redis_server) as store:
        first, second, last = await read(host_of(store), WORK, "One. Two. Thr", "ee. ", None)

    assert [one.acknowledged for one in (first, second, last)] == [13, 17, 17]
    assert [one.sentences for one in (first, second, last)] == [2, 2, 3]
    assert (first.complete, last.complete, last.kept) == (False, True, 3)
    assert first.tokens == len("One. Two. ")


async def test_interrupted_document_goes_on_where_it_was(redis_server: RedisServer) -> None:
    """A later stream, in another process, continues at the acknowledged offset and nowhere else."""
    async with stored(redis_server) as store:
        await read(host_of(store), WORK, "One. Tw")
        host = host_of(store)
        with pytest.raises(FailedPreconditionError, match=r"offset: 7 .* continue at 7"):
            await read(host, WORK, "One. ")
        with pytest.raises(FailedPreconditionError, match=r"offset: 0 .* not 3; continue at 0"):
            await read(host, replace(WORK, document="new", offset=3), "x")
        *_, last = await read(host, replace(WORK, offset=7), "o. Three.", None)
        async with host.sessions.use(KEY) as session:
            sizes = [(one.name, one.end) for one in session.content.documents]

    assert (last.sentences, last.acknowledged) == (3, 16)
    assert sizes == [("book", 16)]


async def test_limits_are_named_and_nothing_is_kept(redis_server: RedisServer) -> None:
    """A long text, a full session and a bad document name are errors of their own."""
    async with stored(redis_server) as store:
        host = host_of(store)
        with pytest.raises(InvalidRequestError, match="document: has 0 bytes"):
            await read(host, replace(WORK, document=""), "x")
        assert await store.sessions(KEY.owner) == []
        with pytest.raises(InvalidArgumentError, match=f"at most {MAX_TEXT_CHARS} are allowed"):
            await read(host, WORK, "x" * (MAX_TEXT_CHARS + 1))
        with pytest.raises(QuotaExceededError, match="1000 is the limit"):
            await read(host, WORK, "x" * 600, "y" * 401)
        await read(host, replace(WORK, offset=600), None)
        with pytest.raises(InvalidRequestError, match="'book' is complete"):
            await read(host, WORK, "x")
