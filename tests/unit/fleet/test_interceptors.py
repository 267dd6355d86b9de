"""Interceptor without a server; all call kinds over real sockets are in test_fleet_server."""

from typing import Any

import grpc
from fleet import logs
from fleet.access.access import Access
from fleet.access.call_guard import CallGuard
from fleet.access.method_roles import MethodRoles
from fleet.call_priority import yields
from fleet.interceptors import CallInterceptor
from grpc_health.v1 import health_pb2


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


async def test_handler_knows_that_a_call_yields() -> None:
    """A mirrored call says so in its metadata."""

    class Mirrored(Context):
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return (("bem-yields", "1"),)

    async def handle(_request: bytes, _context: Any) -> bytes:
        return str(yields.get()).encode()

    wrapped = await _intercept(grpc.unary_unary_rpc_method_handler(handle))
    answers = [await wrapped.unary_unary(b"", context) for context in (Mirrored(), Context())]

    assert answers == [b"True", b"False"]


async def test_malformed_request_is_the_callers_error() -> None:
    """Bytes that are no message of the method never reach the handler; gRPC would say INTERNAL."""
    aborted: list[Any] = []

    class Aborting(Context):
        async def abort_with_status(self, status: Any) -> None:
            aborted.append(status)

    async def handle(request: Any, _context: Any) -> bytes:
        return bytes(request.SerializeToString())

    wrapped = await _intercept(
        grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=health_pb2.HealthCheckRequest.FromString
        )
    )
    answered = await wrapped.unary_unary(b"\x0a\x01a", Aborting())
    await wrapped.unary_unary(b"\x0a\x05a", Aborting())
    await wrapped.unary_unary(b"\x0a\x01\xff", Aborting())

    assert answered == b"\x0a\x01a"
    assert [status.code for status in aborted] == [grpc.StatusCode.INVALID_ARGUMENT] * 2


async def test_malformed_message_of_a_stream_is_the_callers_error() -> None:
    """The messages before it are handled."""
    handled: list[str] = []
    aborted: list[Any] = []

    class Aborting(Context):
        async def abort_with_status(self, status: Any) -> None:
            aborted.append(status.code)

    async def handle(requests: Any, _context: Any) -> Any:
        async for request in requests:
            handled.append(request.service)
            yield b""

    async def raws() -> Any:
        yield b"\x0a\x01a"
        yield b"\x0a"

    wrapped = await _intercept(
        grpc.stream_stream_rpc_method_handler(
            handle, request_deserializer=health_pb2.HealthCheckRequest.FromString
        )
    )
    answers = [one async for one in wrapped.stream_stream(raws(), Aborting())]

    assert (handled, len(answers)) == (["a"], 1)
    assert aborted == [grpc.StatusCode.INVALID_ARGUMENT]
