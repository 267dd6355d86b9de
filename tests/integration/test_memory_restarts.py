"""A kill -9 of the memory mission during an ingestion loses nothing that was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.testing import RedisServer
from grpc import aio

from tests.integration.memories import (
    ACME,
    READY_S,
    MemoryProcess,
    ask,
    filler,
    memory_process,
    messages,
)

pytestmark = pytest.mark.slow
FACTS = [f"The code of Rina{n} is {4711 + n}. " for n in range(40)]
PARTS = [fact + filler(12, 12 * n) for n, fact in enumerate(FACTS)]
QUESTIONS = [f"What is the code of Rina{n}?" for n in range(0, 40, 7)]


async def stub_of(process: MemoryProcess) -> tuple[Any, aio.Channel]:
    """Return a stub of the process, once it is ready, and its channel."""
    channel = open_channel(process.address)
    await wait_ready(channel, mission.SERVICE, READY_S)
    return rpc.MemoryServiceStub(channel), channel


async def until_killed(process: MemoryProcess, stub: Any, after: int) -> int:
    """Send parts and kill the process once ``after`` of them are acknowledged.

    Returns:
        Characters that were acknowledged before the kill.
    """
    acknowledged: list[int] = []
    go_on = asyncio.Event()

    async def sent() -> AsyncIterator[pb.IngestRequest]:
        yield pb.IngestRequest(head=pb.IngestHead(session="s", document="book"))
        for number, part in enumerate(PARTS):
            yield pb.IngestRequest(text=part)
            if number >= after + 1:  # one part is on its way when the process dies
                await go_on.wait()

    async def read() -> None:
        async for one in stub.Ingest(sent(), metadata=ACME):
            acknowledged.append(one.acknowledged)
            if len(acknowledged) == after:
                await asyncio.to_thread(process.kill)
                go_on.set()

    with pytest.raises(aio.AioRpcError):
        await read()
    return acknowledged[-1]


async def answers(stub: Any) -> list[Any]:
    """Return spans and outcomes of all questions."""
    return [await ask(stub, question) for question in QUESTIONS]


@pytest.mark.parametrize("after", [3, 35])
async def test_acknowledged_text_survives_a_kill(
    tmp_path: Path, redis_server: RedisServer, after: int
) -> None:
    """After a kill the client goes on where it was, and all answers are those of a run without.

    At 35 parts the journal was already compacted into a snapshot; at 3 it was not.
    """
    text = "".join(PARTS)
    with memory_process(tmp_path, redis_server) as process:
        stub, channel = await stub_of(process)
        acknowledged = await until_killed(process, stub, after)
        await channel.close()
        process.start()
        stub, channel = await stub_of(process)
        async with channel:
            before = await stub.Coverage(pb.CoverageRequest(session="s"), metadata=ACME)
            durable = before.documents[0].characters
            rest = [text[at : at + 5000] for at in range(durable, len(text), 5000)]
            stream = stub.Ingest(messages("s", "book", *rest, offset=durable), metadata=ACME)
            *_, last = [one async for one in stream]
            interrupted = await answers(stub)
            whole = stub.Ingest(messages("t", "book", *PARTS), metadata=ACME)
            *_, reference = [one async for one in whole]
            uninterrupted = [await ask(stub, one, session="t") for one in QUESTIONS]

    # A part that was on its way may be acknowledged before the kill is through.
    assert acknowledged in [len("".join(PARTS[: after + more])) for more in range(3)]
    assert durable >= acknowledged
    assert last.acknowledged == reference.acknowledged == len(text)
    assert last.sentences == reference.sentences
    assert all(one[-1].outcome.found for one in interrupted)
    cited = [[(r.span.begin, r.span.text) for r in one[:-1]] for one in interrupted]
    assert cited == [[(r.span.begin, r.span.text) for r in one[:-1]] for one in uninterrupted]


async def test_redis_that_is_killed_keeps_what_was_acknowledged(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Redis itself may be killed: its append-only file has every acknowledged part."""
    with memory_process(tmp_path, redis_server) as process:
        stub, channel = await stub_of(process)
        async with channel:
            stream = stub.Ingest(messages("s", "book", *PARTS[:5], end=False), metadata=ACME)
            *_, last = [one async for one in stream]
            redis_server.kill()
            with pytest.raises(aio.AioRpcError, match="memory: Redis"):
                await ask(stub, QUESTIONS[0])
            redis_server.start()
            covered = await stub.Coverage(pb.CoverageRequest(session="s"), metadata=ACME)
            *_, outcome = await ask(stub, QUESTIONS[0])

    assert covered.documents[0].characters == last.acknowledged == len("".join(PARTS[:5]))
    assert outcome.outcome.found
