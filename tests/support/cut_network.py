"""TCP proxy whose network can be cut: connections that break, stall, or lose replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CutNetwork:
    """Proxy on loopback in front of one port.

    Attributes:
        port: Port of the proxy.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._requests, self._replies = asyncio.Event(), asyncio.Event()
        self.mend()

    def mend(self) -> None:
        """Carry bytes both ways."""
        self._requests.set()
        self._replies.set()

    def stall(self) -> None:
        """Carry no bytes; connections stay open."""
        self._requests.clear()
        self._replies.clear()

    def lose_replies(self) -> None:
        """Carry requests, and keep their replies."""
        self._replies.clear()

    def cut(self) -> None:
        """Break all connections, with what they have not carried; new ones work."""
        for writer in self._writers:
            writer.transport.abort()
        self.mend()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CutNetwork]:
        """Serve until the end of the block."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.cut()
            server.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(back)
        carried = (
            self._carry(reader, back, self._requests),
            self._carry(there, writer, self._replies),
        )
        await asyncio.gather(*carried)
        self._writers -= {writer, back}

    @staticmethod
    async def _carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65536):
                await open_.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # the connection was cut
        finally:
            writer.transport.abort()
