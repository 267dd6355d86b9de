"""Server-sent events, each written as it comes, the last in one write with the stream's end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from bem_fleet.services.gateway.edge import cancel_when_left
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """A stream of events; a client that leaves closes their source, which stops the computing.

    Args:
        events: Encoded events; the stream ends after those that end in :data:`DONE`, or with the
            source.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, or as many as the client stays for."""
        del scope
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(cancel_when_left(receive, [sending]))
        try:
            await sending
        except asyncio.CancelledError:
            if not leaving.done():
                raise
        finally:
            leaving.cancel()
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
