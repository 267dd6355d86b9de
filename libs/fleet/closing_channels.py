"""Channels that nobody calls any more, kept open until their calls in flight have ended."""

import asyncio

from grpc import aio


class ClosingChannels:
    """Closes channels in the background."""

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()

    def add(self, channel: aio.Channel, grace_s: float) -> None:
        """Close a channel when its calls have ended, or have had ``grace_s`` seconds."""
        closing = asyncio.ensure_future(channel.close(grace_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def end(self) -> None:
        """Wait for no call any longer."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
