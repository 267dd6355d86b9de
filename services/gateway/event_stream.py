"""Server-sent events (SSE) response, cancelled when the client disconnects.

Each event is written as it comes; the last one is written together with the end of the body.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from bem_fleet.services.gateway.request_context import cancel_on_disconnect
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


class EventStreamResponse(Response):
    """Response of server-sent events; a disconnect closes their source and cancels its calls.

    Args:
        events: Encoded events; the response ends after the one that ends in :data:`DONE`, or with
            the source.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until their end or the disconnect."""
        del scope
        sending = asyncio.create_task(self._send(send))
        disconnect = asyncio.create_task(cancel_on_disconnect(receive, [sending]))
        try:
            await sending
        except asyncio.CancelledError:
            if not disconnect.done():
                raise
        finally:
            disconnect.cancel()
            sending.cancel()

    async def _send(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        more = True
        async with aclosing(self._events) as events:
            async for event in events:
                more = not event.endswith(DONE)
                await send({"type": "http.response.body", "body": event, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode_event(data: dict[str, Any]) -> bytes:
    """Return one JSON object as an event."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
