"""Client of the shared scorer: malformed servers, time limits and reconnection."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bem_fleet.services.safety.scorer_client import ScorerClient, is_ready
from fleet.errors import OverloadedError, UnavailableError

from tests.support.waiting import eventually
from tests.unit.services.safety.test_scorer_process import query

READY = json.dumps({"alive": {"fast": True, "deep": False}}).encode() + b"\n"


@asynccontextmanager
async def connected(
    path: Path,
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *clients: ScorerClient,
) -> AsyncIterator[None]:
    """Serve a socket by ``handle`` and run the clients; everything is closed at the end."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handle(reader, writer)

    server = await asyncio.start_unix_server(accept, str(path))
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(one.wait_closed() for one in writers), return_exceptions=True)


async def test_time_limit_opens_the_circuit_breaker(tmp_path: Path) -> None:
    """A server that never responds blocks the texts; after five the breaker is open."""
    path = tmp_path / "s.sock"

    async def never_respond(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)

    client = ScorerClient("fast", path, 0.05)
    async with connected(path, never_respond, client):
        await eventually(lambda: client.is_ready, 60)
        for _ in range(5):
            with pytest.raises(UnavailableError, match="time limit"):
                await client.score(query("ok"))
        with pytest.raises(UnavailableError, match="5 times in a row"):
            await client.score(query("ok"))


@pytest.mark.parametrize(
    "response", [b"no json\n", b'{"id": 0}\n', b'{"id": 0, "finding": {"scores": {"x": 7}}}\n']
)
async def test_malformed_response_blocks_the_text(tmp_path: Path, response: bytes) -> None:
    """The connection is closed, and the waiting query gets no finding."""
    path = tmp_path / "s.sock"

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)
        await reader.readline()
        writer.write(response)

    client = ScorerClient("fast", path, 60)
    async with connected(path, respond, client):
        await eventually(lambda: client.is_ready, 60)
        with pytest.raises(UnavailableError):
            await client.score(query("ok"))
        await eventually(lambda: client.is_ready, 60)  # it reconnects


async def test_tier_that_is_not_alive_is_not_ready(tmp_path: Path) -> None:
    """A connected client follows the server's status of its own tier."""
    path = tmp_path / "s.sock"

    async def report(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)

    fast, deep = (ScorerClient(tier, path, 60) for tier in ("fast", "deep"))
    async with connected(path, report, fast, deep):
        await eventually(lambda: fast.is_ready, 60)

        assert not deep.is_ready
        with pytest.raises(UnavailableError, match="deep safety scorer is not connected"):
            await deep.score(query("ok"))
        assert not await asyncio.to_thread(is_ready, path)


def test_missing_server_is_not_ready(tmp_path: Path) -> None:
    """The probe returns False for a socket that does not exist."""
    assert not is_ready(tmp_path / "none.sock")


async def test_an_overloaded_server_opens_no_circuit_breaker(tmp_path: Path) -> None:
    """A queue that is too long is an answer: the next text may still have a finding."""
    path = tmp_path / "s.sock"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)
        while line := await reader.readline():
            error = {"id": json.loads(line)["id"], "error": "too many", "overloaded": True}
            writer.write(json.dumps(error).encode() + b"\n")

    client = ScorerClient("fast", path, 60)
    async with connected(path, refuse, client):
        await eventually(lambda: client.is_ready, 60)
        for _ in range(8):
            with pytest.raises(OverloadedError, match="too many"):
                await client.score(query("ok"))
