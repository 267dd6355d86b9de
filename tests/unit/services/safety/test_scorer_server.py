"""Shared scorer server: several clients, malformed messages, stale sockets."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.services.safety import scorer_server
from bem_fleet.services.safety.scorer_client import ScorerClient, is_ready
from bem_fleet.services.safety.scorer_process import ScorerProcess
from bem_fleet.services.safety.scorer_server import ScorerServer
from bem_fleet.services.safety.settings import SafetySettings

from tests.support.waiting import eventually
from tests.unit.services.safety.test_scorer_process import query


@asynccontextmanager
async def serving(path: Path, command: tuple[str, ...]) -> AsyncIterator[None]:
    """Run a server with stub scorers until the block ends."""
    scorers = {
        tier: ScorerProcess(tier, Path("unused"), 60, 2, command) for tier in ("fast", "deep")
    }
    task = asyncio.create_task(ScorerServer(scorers, path).run())
    try:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(is_ready, path):  # noqa: ASYNC110 - a socket
                await asyncio.sleep(0.02)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[ScorerClient]:
    """Run a client until the block ends."""
    client = ScorerClient("fast", path, 60)
    task = asyncio.create_task(client.run())
    try:
        await eventually(lambda: client.is_ready, 60)
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_two_clients_share_one_scorer(tmp_path: Path, stub_command: tuple[str, ...]) -> None:
    """Each client gets the findings of its own queries, in any interleaving."""
    path = tmp_path / "s.sock"
    async with (
        serving(path, stub_command),
        connected(path) as first,
        connected(path) as second,
    ):
        mode = stat.S_IMODE(path.stat().st_mode)
        texts = ["bad", "ok"] * 10
        findings = await asyncio.gather(
            *(client.score(query(text)) for text in texts for client in (first, second))
        )

    scores = [finding.scores["toxicity"] for finding in findings]
    assert scores == [score for text in texts for score in [float(text == "bad")] * 2]
    assert mode == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[]\n",
        b'{"id": 1}\n',
        b'{"id": 1, "tier": "fast", "query": {}}\n',
        b"x" * 5_000_000,
    ],
)
async def test_malformed_client_does_not_harm_others(
    tmp_path: Path, stub_command: tuple[str, ...], line: bytes
) -> None:
    """A malformed message gets an error or ends its connection; another client is served."""
    path = tmp_path / "s.sock"
    async with serving(path, stub_command), connected(path) as client:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(line)
        responses = []
        with suppress(ConnectionResetError):
            while response := await reader.readline():
                responses.append(json.loads(response))
                if "error" in responses[-1]:
                    break
        writer.close()

        assert all("alive" in one or "error" in one for one in responses)
        assert (await client.score(query("bad"))).scores == {"toxicity": 1.0}


async def test_client_that_leaves_does_not_harm_others(
    tmp_path: Path, stub_command: tuple[str, ...]
) -> None:
    """A connection that is closed with queries in flight leaves the server running."""
    path = tmp_path / "s.sock"
    message = {"tier": "fast", "query": {"text": "ok", "side": "response", "scorers": []}}
    async with serving(path, stub_command), connected(path) as client:
        _, writer = await asyncio.open_unix_connection(str(path))
        for number in range(50):
            writer.write(json.dumps({**message, "id": number}).encode() + b"\n")
        writer.transport.abort()

        assert (await client.score(query("bad"))).scores == {"toxicity": 1.0}


async def test_stale_socket_is_replaced_and_live_one_is_not(
    tmp_path: Path, stub_command: tuple[str, ...]
) -> None:
    """The file of a killed server is no obstacle; a second server on a live socket fails."""
    path = tmp_path / "s.sock"
    stale = await asyncio.start_unix_server(lambda _r, _w: None, str(path))
    stale.close()
    path.touch()
    async with serving(path, stub_command):
        with pytest.raises(OSError, match=r"already served|another"):
            await ScorerServer({}, path).run()

        assert await asyncio.to_thread(is_ready, path)


async def test_server_needs_a_socket() -> None:
    """Without BEM_SAFETY_SCORER_SOCKET the process exits with status 1."""
    assert await scorer_server.serve(SafetySettings()) == 1


def test_queries_fit_into_a_line() -> None:
    """Two texts of the largest size fit, even if every character is escaped."""
    text = "\U0001f600" * SafetySettings().max_text_chars
    line = json.dumps(ScoringQuery(text, "response", frozenset(), text).__dict__, default=list)

    assert len(line) < scorer_server._MAX_LINE_BYTES
