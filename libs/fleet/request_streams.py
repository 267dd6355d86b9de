"""Request streams of calls, which are read on for a while after the call was refused.

A server ends a call by its status and a reset of the stream. A client whose write meets the reset
reports the failed write (INTERNAL, over HTTP 500) instead of the status. So the rest that a client
is about to write is taken off the connection and dropped before the status is sent, as long as
there are messages, and never beyond the limits here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

MAX_SECONDS = 1.0
"""Longest time for which a refused stream is read on, in seconds."""

QUIET_SECONDS = 0.25
"""A refused stream without a message for so many seconds has no write on its way."""

MAX_MESSAGES = 1000
"""Messages of a refused stream that are read on."""

MAX_BYTES = 16 * 2**20
"""Bytes of a refused stream that are read on; the message that exceeds them is the last."""

MAX_STREAMS = 64
"""Refused streams that a server reads on at once; the status of a further one is sent as it is."""


class RequestStream:
    """Serialized requests of one call, in order.

    A reader that is cancelled while it waits leaves the read to the next one: gRPC's own iterator
    ends there, and the messages after it could not be read on.

    Args:
        raws: gRPC's iterator of the call's serialized requests.
    """

    def __init__(self, raws: AsyncIterator[bytes]) -> None:
        self._raws = raws
        self._reading: asyncio.Task[bytes | None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raw = await self._read()
        if raw is None:
            raise StopAsyncIteration
        return raw

    async def read_on(self) -> None:
        """Drop requests until the client has ended the stream or is quiet, or a limit is met."""
        messages, size = 0, 0
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_SECONDS):
                while messages < MAX_MESSAGES and size <= MAX_BYTES:
                    async with asyncio.timeout(QUIET_SECONDS):
                        raw = await self._read()
                    if raw is None:
                        return
                    messages, size = messages + 1, size + len(raw)

    def close(self) -> None:
        """Give up a read that nobody waits for any more."""
        if self._reading:
            self._reading.cancel()

    async def _read(self) -> bytes | None:
        """Return the next request; None after the last one."""
        reading = self._reading = self._reading or asyncio.create_task(self._take())
        await asyncio.wait([reading])
        if self._reading is reading:
            self._reading = None
        return reading.result()

    async def _take(self) -> bytes | None:
        return await anext(self._raws, None)
