"""One pipelined connection to Redis for the few commands that every answer waits for.

hiredis packs and parses; redis-py's client costs more time per command than Redis itself.
Commands of concurrent callers share the connection, and in Redis one fsync.
"""

import asyncio
import ssl
from collections import deque
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from fleet.errors import UnavailableError


class _Protocol(asyncio.Protocol):
    """Matches answers to commands in order."""

    def __init__(self) -> None:
        self.lost = False
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is no subclass of asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, command: tuple[str | bytes | int, ...]) -> "asyncio.Future[Any]":
        """Write one command; the future has its answer, or the error that Redis answered."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.lost:
            answer.set_exception(ConnectionResetError("the connection is closed"))
            return answer
        self._waiting.append(answer)
        self._transport.write(hiredis.pack_command(command))
        return answer

    def data_received(self, data: bytes) -> None:
        """Hand out what is whole; an answer that cannot be read ends the connection."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                waiting = self._waiting.popleft()
                if waiting.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        except hiredis.ProtocolError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self.lost = True
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(exc or ConnectionResetError("Redis closed the connection"))

    def abort(self) -> None:
        """Close without waiting."""
        self.lost = True
        if self._transport:
            self._transport.abort()


class RedisPipe:
    """Sends commands to one Redis; connects when first used and again after a loss.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user, password and database where
            needed.
        timeout_s: Longest wait for an answer, connecting included.
        purpose: What it is for, named in errors.
    """

    def __init__(self, url: str, timeout_s: float, purpose: str) -> None:
        self._purpose = purpose
        self._to = parse_url(url)
        self._timeout_s = timeout_s
        self._protocol: _Protocol | None = None
        self._connecting = asyncio.Lock()

    async def call(self, *command: str | bytes | int) -> Any:
        """Return the answer to one command, such as ``call("PING")``.

        Raises:
            UnavailableError: Redis cannot be reached, refused the command, or did not answer in
                time; the command may or may not have been carried out.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._protocol is None or self._protocol.lost:
                    await self._connect()
                if self._protocol is None:
                    raise ConnectionResetError("closed")
                return await self._protocol.send(command)
        except TimeoutError as err:
            self.close()  # what comes late must not answer the next command
            raise UnavailableError(
                f"{self._purpose}: Redis did not answer in {self._timeout_s:g} s"
            ) from err
        except (OSError, hiredis.HiredisError) as err:
            raise UnavailableError(f"{self._purpose}: Redis failed: {err}") from err

    def close(self) -> None:
        """Close the connection; what waits for it fails."""
        if self._protocol:
            self._protocol.abort()
            self._protocol = None

    async def _connect(self) -> None:
        async with self._connecting:
            if self._protocol and not self._protocol.lost:
                return
            secure = self._to.get("connection_class") is SSLConnection
            loop = asyncio.get_running_loop()
            if path := self._to.get("path"):
                _, protocol = await loop.create_unix_connection(_Protocol, path)
            else:
                _, protocol = await loop.create_connection(
                    _Protocol,
                    self._to.get("host", "localhost"),
                    self._to.get("port", 6379),
                    ssl=ssl.create_default_context() if secure else None,
                )
            if password := self._to.get("password"):
                user = self._to.get("username") or "default"
                await protocol.send(("AUTH", user, password))
            if database := self._to.get("db"):
                await protocol.send(("SELECT", database))
            self._protocol = protocol
