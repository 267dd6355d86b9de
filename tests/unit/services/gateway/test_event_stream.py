"""An event stream ends in one write, and leaves no source open behind a client that has gone."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from bem_fleet.services.gateway.event_stream import DONE, EventStreamResponse


async def _ask(events: AsyncGenerator[bytes], gone: asyncio.Event) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await EventStreamResponse(events)({}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("pieces", "bodies"),
    [
        ([b"data: 1\n\n", b"data: 2\n\n" + DONE], [True, False]),
        ([b"data: 1\n\n", b'data: {"error": {}}\n\n'], [True, True, False]),
    ],
)
async def test_the_end_comes_with_the_last_event(pieces: list[bytes], bodies: list[bool]) -> None:
    """What ends in DONE ends the answer in the same message; a broken stream ends by itself."""

    async def source() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    sent = await _ask(source(), asyncio.Event())

    assert sent[0]["status"] == 200
    assert b"".join(message["body"] for message in sent[1:]) == b"".join(pieces)
    assert [message["more_body"] for message in sent[1:]] == bodies


async def test_a_client_that_leaves_closes_the_source() -> None:
    """The source is closed at once, though it would never have yielded again."""
    gone, closed = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            gone.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    sent = await asyncio.wait_for(_ask(source(), gone), 5)

    assert closed.is_set()
    assert sent[-1]["more_body"]
