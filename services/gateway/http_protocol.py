"""HTTP/1.1 protocol with limits of size and time: uvicorn's httptools protocol, bounded.

uvicorn accepts headers of any length, waits for slow headers, bodies and readers for ever, and
reads on after it has refused a body. Here a connection is in one of four phases, and each has an
end: idle, head (request line and headers), body, response.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from bem_fleet.services.gateway.errors import ApiError
from fleet import logs
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOG = logs.get("gateway.http")
DROPPED = Counter(
    "bem_gateway_connections_dropped_total",
    "Connections that the gateway closed because a client exceeded a limit.",
    ["reason"],
)
# Bytes of a refused body that are read and discarded, so that a client that writes all of its body
# before it reads can see the answer.
_DISCARDED_BYTES = 8 * 1024 * 1024
# Bytes in user space above which the transport waits for the client, and below which it goes on.
_HIGH_WATER, _LOW_WATER = 32 * 1024, 8 * 1024


@dataclass
class ConnectionLimits:
    """Limits of all connections of one server.

    Attributes:
        connections: Open connections; a new one replaces the one that has waited longest.
        header_bytes: Size of a request line with all headers.
        header_s: Seconds from the first byte of a request, or from the connection, to the end of
            its headers.
        body_s: Seconds from the end of the headers to the end of the body.
        stalled_s: Seconds in which a client must read some of a response that waits for it.
        waiting: Connections without a complete request, the longest waiting first.
    """

    connections: int
    header_bytes: int
    header_s: float
    body_s: float
    stalled_s: float
    waiting: "OrderedDict[BoundedHttpProtocol, None]" = field(default_factory=OrderedDict)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: Limits, shared by all connections of the server.
        arguments: Arguments of uvicorn's protocol.
    """

    def __init__(self, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0  # received since the last request
        self._head_size = 0  # parsed
        self._discarded = 0
        self._refusal: ApiError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; with too many connections, end the one that waits longest."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self._wait(self._limits.header_s)
        if len(self.connections) > self._limits.connections:
            oldest = next(iter(self._limits.waiting))
            oldest.drop("connections", _too_many(self._limits.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._stop_timer()
        self._end_stall()
        self._limits.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, as long as the head stays within its limit."""
        if self.transport.is_closing():
            return
        if self._in_head:
            if not self._head_bytes and not self.pipeline:
                self._wait(self._limits.header_s)  # the first bytes after an idle time
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self._limits.header_bytes:
            self.drop("header_size", self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, or refuse the head that it makes too large."""
        super().on_header(name, value)
        self._head_size += len(name) + len(value) + 4
        self._check_head()

    def on_headers_complete(self) -> None:
        """Begin the request; its body has a time limit of its own."""
        self._check_head()  # there may be no header
        self._in_head, self._head_bytes, self._head_size = False, 0, 0
        self._wait(self._limits.body_s)
        self._limits.waiting.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on; end a client that goes on sending what was refused."""
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARDED_BYTES:
                self.drop("body_size", None)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the time limit of the body."""
        self._stop_timer()
        self._in_head, self._discarded = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn's keep-alive timeout ends an idle connection."""
        super().on_response_complete()
        if self._in_head and not self.transport.is_closing():
            self._limits.waiting[self] = None

    def pause_writing(self) -> None:
        """Start to wait for a client that does not read."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._limits.stalled_s, self.drop, "stalled", None)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._end_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self.drop("header_size", self._refusal)

    def drop(self, reason: str, answer: ApiError | None) -> None:
        """Close the connection because of a limit.

        Args:
            reason: Label of the metric.
            answer: Error that is sent if no response has begun.
        """
        if self.transport.is_closing():
            return
        DROPPED.labels(reason).inc()
        _LOG.info("connection dropped", reason=reason)
        cycle = self.cycle
        begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if answer is None or begun or self.pipeline:
            self.transport.abort()
            return
        if not self._in_head or self._head_bytes:  # an idle client expects no answer
            self.transport.write(_encode(answer))
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        """Start the time limit of the present phase."""
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._time_out)
        if self._in_head:
            self._limits.waiting.setdefault(self, None)

    def _time_out(self) -> None:
        phase, seconds = ("header", self._limits.header_s)
        if not self._in_head:
            phase, seconds = ("body", self._limits.body_s)
        self.drop(
            f"{phase}_time",
            ApiError(
                408,
                f"{phase}: not received completely; the limit is {seconds:g} s; send it at once",
                code="request_timeout",
            ),
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _check_head(self) -> None:
        if len(self.url) + self._head_size > self._limits.header_bytes:
            self._refusal = self._head_too_large()
            raise self._refusal  # the parser wraps it, and send_400_response answers

    def _head_too_large(self) -> ApiError:
        return ApiError(
            431,
            f"headers: too large; the limit is {self._limits.header_bytes} bytes with the request "
            "line; send fewer or shorter ones",
            code="headers_too_large",
        )


def _too_many(limit: int) -> ApiError:
    return ApiError(
        503,
        f"connections: too many are open; the limit is {limit}; send the request at once, or retry",
        code="too_many_connections",
    )


def _encode(error: ApiError) -> bytes:
    """Return a complete response with an error, after which the connection closes."""
    body = bytes(error.response().body)
    status = HTTPStatus(error.status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
