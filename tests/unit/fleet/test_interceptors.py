"""Interceptor without a server; all call kinds over real sockets are in test_fleet_server."""

from typing import Any

import grpc
from fleet import logs
from fleet.access.access import Access
from fleet.access.call_guard import CallGuard
from fleet.access.method_roles import MethodRoles
from fleet.interceptors import CallInterceptor


async def _intercept(handler: Any) -> Any:
    details: Any = type("Details", (), {"method": "/sample.v1.S/M"})()

    guard = CallGuard(Access(None, "unix:/run/s.sock"), MethodRoles(), None)

    async def continuation(_details: Any) -> Any:
        return handler

    return await CallInterceptor({}, guard).intercept_service(continuation, details)


class Context:
    """Context of a call with a request id."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the caller's metadata."""
        return (("x-request-id", "req-1"),)

    def code(self) -> None:
        """Return no code: the call has not been aborted."""


async def test_unknown_method_stays_unknown() -> None:
    """The server itself answers UNIMPLEMENTED."""
    assert await _intercept(None) is None


async def test_handler_runs_with_the_callers_request_id() -> None:
    """Logs and calls of a handler carry the id that the caller sent."""

    async def handle(_request: bytes, _context: Any) -> bytes:
        return logs.request_id.get().encode()

    wrapped = await _intercept(grpc.unary_unary_rpc_method_handler(handle))

    assert await wrapped.unary_unary(b"", Context()) == b"req-1"
