"""What every HTTP request passes: its id, the size limit, metrics and one log line."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bem_fleet.services.gateway.errors import ApiError
from fleet import logs
from fleet.clients import passed_on
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logs.get("gateway.access")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Read by the sidecar: how much of the safety adapter, and whose request.
PASSED_ON = ("bem-safety-strength", "bem-tenant")
LONGEST_PASSED_ON = 64
REQUESTS = Counter("bem_gateway_requests_total", "HTTP requests ended.", ["route", "code"])
SECONDS = Histogram(
    "bem_gateway_request_seconds",
    "Time from a request's arrival to the end of its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)


class Edge:
    """ASGI middleware around the application.

    Args:
        app: The application.
        max_body_bytes: Largest body, announced or not.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        identifier = given if _ID.fullmatch(given) else logs.new_request_id()
        logs.request_id.set(identifier)
        logs.traceparent.set(headers.get(b"traceparent", b"").decode("latin-1")[:128])
        status: list[int] = []

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", identifier.encode()),
                ]
            await send(message)

        try:
            if int(headers.get(b"content-length", b"0") or 0) > self._max:
                await _too_large(self._max).response()(scope, receive, answer)
            elif problem := _pass_on(headers):
                await problem.response()(scope, receive, answer)
            else:
                await self._app(scope, _limited(receive, self._max), answer)
        finally:
            _ended(scope, status[0] if status else 499, time.perf_counter() - began)


async def cancel_when_left(receive: Receive, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel the tasks when the client has gone; its body was read before."""
    while (await receive())["type"] != "http.disconnect":
        continue
    for task in tasks:
        task.cancel()


def _pass_on(headers: Mapping[bytes, bytes]) -> ApiError | None:
    """Keep the headers that the next service reads; tells which cannot be metadata."""
    kept = []
    for name in PASSED_ON:
        value = headers.get(name.encode(), b"").decode("latin-1")
        if len(value) > LONGEST_PASSED_ON or not (value.isascii() and value.isprintable()):
            return ApiError(
                400,
                f"the header {name} must be at most {LONGEST_PASSED_ON} printable ASCII characters",
                code="invalid_value",
                param=name,
            )
        kept.append((name, value))
    passed_on.set(tuple(kept))
    return None


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body exceeds the limit of {limit} bytes", code="body_too_large")


def _ended(scope: Scope, status: int, seconds: float) -> None:
    route: Any = scope.get("route")
    # Unknown paths are one series: a client must not be able to make new ones.
    name = getattr(route, "path", "unknown")
    REQUESTS.labels(name, str(status)).inc()
    SECONDS.labels(name).observe(seconds)
    _LOG.info(
        "request", method=scope["method"], route=name, status=status, ms=round(seconds * 1000, 1)
    )
