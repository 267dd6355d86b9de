"""Server interceptor: request ids, access control, call metrics, and errors as rich statuses."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Self, TypeAlias

import grpc
from grpc import aio
from grpc_status import rpc_status

from fleet import logs
from fleet.access.call_guard import CallGuard
from fleet.errors import StatusTable, to_status
from fleet.metrics import RPC_SECONDS

_LOG = logs.get("fleet.rpc")
Handler = Callable[[Any, Any], Any]
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class CallInterceptor(aio.ServerInterceptor):
    """Wraps the handlers of all four call kinds.

    It adopts the caller's request id (or makes one), enforces role and limits of the caller,
    measures the call, and ends it with a ``google.rpc.Status`` if the handler raises. An abort by
    the handler itself passes unchanged.

    Args:
        table: Status codes of the service's own errors.
        guard: Access control of the server.
    """

    def __init__(self, table: StatusTable, guard: CallGuard) -> None:
        self._table, self._guard = table, guard

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the wrapped handler of the call; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        kind = "stream" if handler.request_streaming else "unary"
        kind += "_stream" if handler.response_streaming else "_unary"
        inner = getattr(handler, kind)
        wrap = self._wrap_streaming if handler.response_streaming else self._wrap_unary
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            wrap(method, inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _wrap_unary(self, method: str, inner: Handler) -> Handler:
        async def call(request: Any, context: Context) -> Any:
            _adopt_request_context(context)
            with _CallTimer(method, context) as timer:
                admitted = None
                try:
                    admitted = await self._guard.admit(method, context.invocation_metadata() or ())
                    response = await inner(request, context)
                except aio.AbortError:
                    raise
                except Exception as err:  # noqa: BLE001 - any error of a handler becomes a status here
                    await self._abort(method, err, context, timer)
                else:
                    admitted.count(response)
                    return response
                finally:
                    if admitted:
                        admitted.release()

        return call

    def _wrap_streaming(self, method: str, inner: Handler) -> Handler:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            _adopt_request_context(context)
            with _CallTimer(method, context) as timer:
                admitted = None
                try:
                    admitted = await self._guard.admit(method, context.invocation_metadata() or ())
                    responses = inner(request, context)
                    if not hasattr(responses, "__aiter__"):  # a coroutine that writes by itself
                        await responses
                        return
                    async with aclosing(responses):
                        async for response in responses:
                            admitted.count(response)
                            yield response
                except aio.AbortError:
                    raise
                except Exception as err:  # noqa: BLE001 - any error of a handler becomes a status here
                    await self._abort(method, err, context, timer)
                finally:
                    if admitted:
                        admitted.release()

        return call

    async def _abort(
        self, method: str, err: Exception, context: Context, timer: _CallTimer
    ) -> None:
        status = to_status(err, self._table)
        timer.code = _NAMES.get(status.code, "UNKNOWN")
        if status.code == grpc.StatusCode.INTERNAL.value[0]:
            _LOG.error("call failed", method=method, exc_info=err)
        await context.abort_with_status(rpc_status.to_status(status))


class _CallTimer:
    """Observes the duration of one call, labelled with its status code."""

    def __init__(self, method: str, context: Context) -> None:
        self.code: str | None = None
        self._method = method
        self._context = context
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = self.code or _code_of(self._context, kind)
        RPC_SECONDS.labels(self._method, code).observe(time.perf_counter() - self._began)


def _code_of(context: Context, kind: type[BaseException] | None) -> str:
    if kind is not None and not issubclass(kind, aio.AbortError):
        return "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code or 0, "UNKNOWN")


def _adopt_request_context(context: Context) -> None:
    metadata = dict(context.invocation_metadata() or ())
    received = metadata.get(logs.REQUEST_ID_KEY)
    logs.request_id.set(
        received if isinstance(received, str) and received else logs.new_request_id()
    )
    trace = metadata.get(logs.TRACEPARENT_KEY)
    logs.traceparent.set(trace if isinstance(trace, str) else "")


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
