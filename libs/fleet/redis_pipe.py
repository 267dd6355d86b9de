"""Pipelined Redis connection for commands on the latency path, such as audit records.

hiredis packs commands and parses replies; redis-py's client costs more time per command than Redis
itself (ADR 0004). Commands of concurrent callers share the connection, and in Redis one fsync.
Everything else uses redis-py (``fleet.streams``).
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.asyncio.connection import RedisSSLContext, SSLConnection, parse_url
from redis.exceptions import RedisError

from fleet.errors import UnavailableError

_TLS_PREFIX = "ssl_"
_ADDRESS_OPTIONS = frozenset({"host", "port", "path", "connection_class"})
_OPTIONS = frozenset({"username", "password", "db", "socket_timeout", "socket_connect_timeout"})


@dataclass(frozen=True)
class RedisTarget:
    """Address, login and time limits from a Redis URL.

    Attributes:
        host: Host name or IP address.
        port: TCP port.
        path: Path of a Unix socket; None for TCP.
        username: User of Redis's ACL.
        password: Password; None sends no AUTH.
        database: Number of the database.
        connect_timeout_s: Longest time to connect and log in, in seconds; None counts it into
            ``timeout_s``.
        timeout_s: Longest wait for a reply, in seconds.
        tls: TLS context; None for a connection in plain text.
    """

    host: str
    port: int
    path: str | None
    username: str
    password: str | None
    database: int
    connect_timeout_s: float | None
    timeout_s: float
    tls: ssl.SSLContext | None


def parse_target(url: str, timeout_s: float) -> RedisTarget:
    """Parse a Redis URL in redis-py's form.

    Options of ``rediss://`` are those of redis-py: ``ssl_ca_certs`` (CA file), ``ssl_cert_reqs``
    (``required``, the default, or ``none``), ``ssl_check_hostname``, ``ssl_certfile`` and
    ``ssl_keyfile``. ``rediss://user:secret@host:6380/2?ssl_ca_certs=/etc/redis/ca.crt`` logs in as
    ``user`` to database 2 and trusts only that CA.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_s: Longest wait for a reply if the URL has no ``socket_timeout``, in seconds.

    Raises:
        ValueError: The URL has an unknown option or a TLS file that cannot be read.
    """
    given: dict[str, Any] = dict(parse_url(url))
    tls = {name: value for name, value in given.items() if name.startswith(_TLS_PREFIX)}
    unknown = sorted(given.keys() - tls.keys() - _ADDRESS_OPTIONS - _OPTIONS)
    secure = given.get("connection_class") is SSLConnection
    if unknown or (tls and not secure):
        refused = ", ".join(unknown or sorted(tls))
        supported = ", ".join(sorted(_OPTIONS))
        raise ValueError(
            f"redis_url: unsupported option {refused}; supported: {supported}, and ssl_* with "
            "rediss://; remove it"
        )
    return RedisTarget(
        host=given.get("host", "localhost"),
        port=given.get("port", 6379),
        path=given.get("path"),
        username=given.get("username") or "default",
        password=given.get("password"),
        database=given.get("db", 0),
        connect_timeout_s=given.get("socket_connect_timeout"),
        timeout_s=given.get("socket_timeout", timeout_s),
        tls=_tls_context(tls) if secure else None,
    )


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    given = {name.removeprefix(_TLS_PREFIX): value for name, value in options.items()}
    try:
        defaults = {"cert_reqs": "required", "check_hostname": True}
        return RedisSSLContext(**{**defaults, **given}).get()
    except (OSError, TypeError, RedisError) as err:  # ssl.SSLError is an OSError
        raise ValueError(f"redis_url: TLS options {sorted(options)}: {err}; correct them") from err


class _ReplyProtocol(asyncio.Protocol):
    """Assigns replies to commands in order."""

    def __init__(self) -> None:
        self.lost = False
        self._reader = hiredis.Reader()
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is no subclass of asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, command: tuple[str | bytes | int, ...]) -> "asyncio.Future[Any]":
        """Write one command; the future resolves to its reply or raises Redis's error."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.lost:
            reply.set_exception(ConnectionResetError("the connection is closed"))
            return reply
        self._pending.append(reply)
        self._transport.write(hiredis.pack_command(command))
        return reply

    def data_received(self, data: bytes) -> None:
        """Resolve the futures of complete replies; an unreadable reply ends the connection."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                future = self._pending.popleft()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except hiredis.ProtocolError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending commands."""
        self.lost = True
        while self._pending:
            future = self._pending.popleft()
            if not future.done():
                future.set_exception(exc or ConnectionResetError("Redis closed the connection"))

    def abort(self) -> None:
        """Close without waiting for pending replies."""
        self.lost = True
        if self._transport:
            self._transport.abort()


class RedisPipe:
    """Sends commands to one Redis; connects on first use and again after a lost connection.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; see ``parse_target``.
        timeout_s: Longest wait for a reply and for a connection, in seconds.
        purpose: Name of the use in error messages, such as ``stream bem:audit``.
    """

    def __init__(self, url: str, timeout_s: float, purpose: str) -> None:
        self._purpose = purpose
        self._target = parse_target(url, timeout_s)
        self._protocol: _ReplyProtocol | None = None
        self._connecting = asyncio.Lock()

    async def call(self, *command: str | bytes | int) -> Any:
        """Return the reply to one command, such as ``call("PING")``.

        Raises:
            UnavailableError: Redis cannot be reached, refused the command, or did not reply in
                time; the command may or may not have been carried out.
        """
        connect_s, limit_s = self._target.connect_timeout_s, self._target.timeout_s
        try:
            if connect_s is not None and not self._connected:
                async with asyncio.timeout(connect_s):
                    await self._connect()
            async with asyncio.timeout(limit_s):
                if not self._connected:
                    await self._connect()
                if self._protocol is None:
                    raise ConnectionResetError("the connection was closed meanwhile")
                return await self._protocol.send(command)
        except TimeoutError as err:
            self.close()  # a late reply must not be taken for the next command's
            raise UnavailableError(
                f"{self._purpose}: Redis did not answer in {limit_s:g} s"
            ) from err
        except (OSError, hiredis.HiredisError) as err:
            raise UnavailableError(f"{self._purpose}: Redis failed: {err}") from err

    def close(self) -> None:
        """Close the connection; pending commands fail."""
        if self._protocol:
            self._protocol.abort()
            self._protocol = None

    @property
    def _connected(self) -> bool:
        return self._protocol is not None and not self._protocol.lost

    async def _connect(self) -> None:
        async with self._connecting:
            if self._connected:
                return
            target, loop = self._target, asyncio.get_running_loop()
            if target.path:
                _, protocol = await loop.create_unix_connection(_ReplyProtocol, target.path)
            else:
                _, protocol = await loop.create_connection(
                    _ReplyProtocol, target.host, target.port, ssl=target.tls
                )
            if target.password:
                await protocol.send(("AUTH", target.username, target.password))
            if target.database:
                await protocol.send(("SELECT", target.database))
            self._protocol = protocol
