"""Request context middleware: request id, span, body limit, forwarded headers, metrics, log."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from bem_fleet.services.gateway.errors import ApiError
from fleet import logs, wire
from fleet.access import ANONYMOUS, admission, principal
from fleet.clients import forwarded_metadata
from fleet.metrics import observe
from fleet.tracing import Span, server_span
from opentelemetry.trace import Tracer
from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logs.get("gateway.access")
T = TypeVar("T")
FORWARDED_HEADERS = (wire.SAFETY_STRENGTH,)
"""Request headers that the sidecar reads as gRPC metadata."""
MAX_FORWARDED_CHARS = 64
_MAX_SESSION_CHARS = 256
_POLLED = ("/healthz", "/readyz", "/metrics")
REQUESTS = Counter("bem_gateway_requests_total", "Completed HTTP requests.", ["route", "code"])
SECONDS = Histogram(
    "bem_gateway_request_seconds",
    "Time from the arrival of a request to the end of its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)


class RequestContextMiddleware:
    """Outermost ASGI middleware of the gateway.

    Args:
        app: Application that serves the request.
        max_body_bytes: Largest body in bytes, whether or not Content-Length announces it.
        tracer: Records a span for each request; None while tracing is off.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, tracer: Tracer | None = None) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Several requests of a connection may share one context.
        principal.set(ANONYMOUS)
        admission.set(None)
        headers = dict(scope["headers"])
        keys = (wire.REQUEST_ID.encode(), wire.TRACEPARENT.encode())
        logs.adopt_context(*(headers.get(key, b"").decode("latin-1") for key in keys))
        tracer = None if scope["path"] in _POLLED else self._tracer
        with server_span(tracer, "HTTP") as span:
            await self._serve(scope, receive, send, span)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        began = time.perf_counter()
        headers, identifier = dict(scope["headers"]), logs.request_id.get()
        status: list[int] = []

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                message["headers"] = [
                    *message.get("headers", []),
                    (wire.REQUEST_ID.encode(), identifier.encode()),
                ]
            await send(message)

        try:
            if int(headers.get(b"content-length", b"0") or 0) > self._max_body_bytes:
                await _too_large(self._max_body_bytes).response()(scope, receive, send_with_id)
            elif problem := _forward_headers(headers):
                await problem.response()(scope, receive, send_with_id)
            else:
                await self._app(scope, _limited(receive, self._max_body_bytes), send_with_id)
        except ClientDisconnect:  # before its body was complete: nobody waits for an answer
            _LOG.info("client left", request_id=identifier)
        finally:
            code = status[0] if status else 499
            _record_request(scope, code, time.perf_counter() - began)
            _describe(span, scope, code)


async def cancel_on_disconnect(receive: Receive, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel the tasks when the client disconnects; the body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        continue
    for task in tasks:
        task.cancel()


async def until_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of ``work``; a disconnect of the client cancels it, and the calls in it.

    Whatever waits for a mission before the response begins runs in it: a client that has gone would
    otherwise keep its place in the mission's queue, and its share of the work.

    Args:
        receive: Source of the request's messages; the body must have been read before.
        work: Whatever the response waits for.

    Raises:
        ApiError: The client disconnected.
    """

    async def run() -> T:
        return await work

    running = asyncio.create_task(run())
    disconnect = asyncio.create_task(cancel_on_disconnect(receive, [running]))
    try:
        return await running
    except asyncio.CancelledError:
        if disconnect.done():
            raise ApiError(
                499, "the client closed the connection", code="client_closed_request"
            ) from None
        raise
    finally:
        disconnect.cancel()
        running.cancel()


def _forward_headers(headers: Mapping[bytes, bytes]) -> ApiError | None:
    """Keep the headers that calls to missions repeat; return an error for a bad value."""
    forwarded = []
    for name in FORWARDED_HEADERS:
        value = headers.get(name.encode(), b"").decode("latin-1")
        if len(value) > MAX_FORWARDED_CHARS or not (value.isascii() and value.isprintable()):
            return ApiError(
                400,
                f"{name}: must be at most {MAX_FORWARDED_CHARS} printable ASCII characters",
                code="invalid_value",
                param=name,
            )
        forwarded.append((name, value))
    forwarded_metadata.set(tuple(forwarded))
    return None


def session_of(headers: Mapping[str, str], user: str | None = None) -> str:
    """Return the session id: the session header, else the request's user, else the request id."""
    return headers.get(wire.SESSION_ID, "")[:_MAX_SESSION_CHARS] or user or logs.request_id.get()


def _limited(receive: Receive, limit: int) -> Receive:
    received = 0

    async def receive_counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return receive_counted


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"body: too large; the limit is {limit} bytes", code="body_too_large")


def _route_of(scope: Scope) -> str:
    # Unknown paths share one series: a client must not be able to create new ones.
    return str(scope.get("route_path") or getattr(scope.get("route"), "path", "unknown"))


def _describe(span: Span, scope: Scope, status: int) -> None:
    """Name the span of a request by its route; its path may hold what the client chose."""
    route = _route_of(scope)
    if route != "unknown":  # only then the method is one of a route
        span.rename(f"{scope['method']} {route}")
        span.set("http.request.method", scope["method"])
        span.set("http.route", route)
    span.set("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status))


def _record_request(scope: Scope, status: int, seconds: float) -> None:
    name = _route_of(scope)
    REQUESTS.labels(name, str(status)).inc()
    observe(SECONDS.labels(name), seconds)
    _LOG.info(
        "request",
        method=scope["method"],
        route=name,
        status=status,
        ms=round(seconds * 1000, 1),
        key=principal.get().name,
    )
