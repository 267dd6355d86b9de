"""Clients that leave before the first word: their calls end in the mission, on every route."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bemfleet.router.v1 import router_pb2 as pb
from fleet.testing import RedisServer

from tests.integration.tracks import ScriptedMission, gateway, mission, socket_of

TEXT = {"model": "m", "prompt": "x"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


class BusyMission(ScriptedMission):
    """A mission all of whose rows are occupied: calls wait until they are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.began = asyncio.Event()
        self.left = asyncio.Event()

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:  # noqa: N802, ARG002
        """Wait for a row."""
        await self._wait()
        return pb.CompleteResponse()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802, ARG002
        """Wait for a row."""
        await self._wait()
        yield pb.GenerateResponse()

    async def _wait(self) -> None:
        self.waiting += 1
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
            self.left.set()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", TEXT),
        ("completions", {**TEXT, "stream": True}),
        ("completions", {**TEXT, "stream": True, "n": 3}),
        ("chat/completions", {**CHAT, "n": 3}),
        ("chat/completions", {**CHAT, "stream": True}),
        ("missions/router/Generate", {"prompt": "x"}),
        ("missions/router/Complete", {"request": {"prompt": "x"}}),
    ],
)
async def test_a_call_ends_with_its_client(
    redis_server: RedisServer, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """The mission gets its row, or the place in its queue, back at once."""
    busy = BusyMission()
    address = socket_of(tmp_path, "router")
    async with (
        mission(address, busy),
        gateway(redis_server.url, missions={"router": address}) as client,
    ):
        url, payload = client.base_url, json.dumps(body).encode()
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        async with asyncio.timeout(10):
            await busy.began.wait()
        writer.close()
        async with asyncio.timeout(5):
            while busy.waiting:
                busy.left.clear()
                await busy.left.wait()

    assert not busy.waiting
