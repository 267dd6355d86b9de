"""Server interceptor: request ids, spans, access, metrics, parsed requests, stalled readers."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_status import rpc_status
from opentelemetry.trace import Tracer

from fleet import logs
from fleet.access.call_guard import CallGuard
from fleet.call_priority import adopt_priority
from fleet.errors import ForwardedError, InvalidArgumentError, StatusTable, to_status
from fleet.metrics import RPC_SECONDS, STALLED, observe
from fleet.request_streams import MAX_STREAMS, RequestStream
from fleet.tracing import Span, record_rpc_status, rpc_span

_LOG = logs.get("fleet.rpc")
Handler = Callable[[Any, Any], Any]
Parse = Callable[[bytes], Any]
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class CallInterceptor(aio.ServerInterceptor):
    """Wraps the handlers of all four call kinds.

    It adopts the caller's request id (or makes one), enforces role and limits of the caller,
    measures the call, and ends it with a ``google.rpc.Status`` if the handler raises. An abort by
    the handler itself passes unchanged. A response stream whose client stops reading is cancelled,
    so that nobody works for it. A request stream is read on before its error is sent, so that the
    client sees the error and not its own failed write.

    Args:
        table: Status codes of the service's own errors.
        guard: Access control of the server.
        stalled_stream_s: Longest time that a response may wait for the client to read, in seconds.
        tracer: Records a span for each call; None while tracing is off.
    """

    def __init__(
        self,
        table: StatusTable,
        guard: CallGuard,
        *,
        stalled_stream_s: float = math.inf,
        tracer: Tracer | None = None,
    ) -> None:
        self._table, self._guard, self._tracer = table, guard, tracer
        self._stalled_stream_s = stalled_stream_s
        self._ending: set[asyncio.Task[None]] = set()
        self._reading_on = asyncio.Semaphore(MAX_STREAMS)

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
        if handler.request_deserializer:
            inner = _parsing(inner, handler.request_deserializer, handler.request_streaming)
        wrap = self._wrap_streaming if handler.response_streaming else self._wrap_unary
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            wrap(method, inner),
            # gRPC itself ends a call with INTERNAL if the client's message cannot be parsed.
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _wrap_unary(self, method: str, inner: Handler) -> Handler:
        async def call(request: Any, context: Context) -> Any:
            with self._serve(method, context) as timer, _requests_of(request) as requests:
                admitted = None
                try:
                    admitted = await self._guard.admit(method, context.invocation_metadata() or ())
                    response = await inner(requests, context)
                except aio.AbortError:
                    raise
                except Exception as err:  # noqa: BLE001 - any error of a handler becomes a status here
                    await self._read_on(requests)
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
            with self._serve(method, context) as timer, _requests_of(request) as requests:
                admitted = None
                try:
                    admitted = await self._guard.admit(method, context.invocation_metadata() or ())
                    responses = inner(requests, context)
                    if not hasattr(responses, "__aiter__"):  # a coroutine that writes by itself
                        await responses
                        return
                    async with aclosing(responses):
                        async for response in responses:
                            admitted.count(response)
                            # gRPC takes the next response when this one fits its window.
                            with self._time_reader(method, context):
                                yield response
                except aio.AbortError:
                    raise
                except Exception as err:  # noqa: BLE001 - any error of a handler becomes a status here
                    await self._read_on(requests)
                    await self._abort(method, err, context, timer)
                finally:
                    if admitted:
                        admitted.release()

        return call

    def _serve(self, method: str, context: Context) -> _CallTimer:
        _adopt_request_context(context)
        return _CallTimer(method, context, rpc_span(self._tracer, method))

    @contextmanager
    def _time_reader(self, method: str, context: Context) -> Iterator[None]:
        """End the call if the client does not make room for a response in time."""
        call, loop = asyncio.current_task(), asyncio.get_running_loop()
        if call is None or self._stalled_stream_s == math.inf:
            yield
            return

        def drop() -> None:
            STALLED.labels(method).inc()
            _LOG.info("stalled reader dropped", method=method, limit_s=self._stalled_stream_s)
            # The status waits behind the response that the client does not read.
            ending = loop.create_task(_end_call(context, self._stalled_stream_s))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            call.cancel()

        timer = loop.call_later(self._stalled_stream_s, drop)
        try:
            yield
        finally:
            timer.cancel()

    async def _read_on(self, requests: Any) -> None:
        if isinstance(requests, RequestStream) and not self._reading_on.locked():
            async with self._reading_on:
                await requests.read_on()

    async def _abort(
        self, method: str, err: Exception, context: Context, timer: _CallTimer
    ) -> None:
        if isinstance(err, ForwardedError):
            timer.code = err.code.name
            await context.abort(err.code, str(err), err.trailing_metadata)
        status = to_status(err, self._table)
        timer.code = _NAMES.get(status.code, "UNKNOWN")
        if status.code == grpc.StatusCode.INTERNAL.value[0]:
            _LOG.error("call failed", method=method, exc_info=err)
        await context.abort_with_status(rpc_status.to_status(status))


@contextmanager
def _requests_of(request: Any) -> Iterator[Any]:
    """Yield a request as it is, and an iterator of requests as a stream that can be read on."""
    if not hasattr(request, "__aiter__"):
        yield request
        return
    requests = RequestStream(request)
    try:
        yield requests
    finally:
        requests.close()


async def _end_call(context: Context, limit_s: float) -> None:
    """Send the status of a call whose client has not read for ``limit_s`` seconds."""
    with suppress(aio.AbortError, TimeoutError):
        async with asyncio.timeout(limit_s):
            await context.abort(
                grpc.StatusCode.CANCELLED,
                f"response: not read; the limit is {limit_s:g} s; read the stream as it arrives",
            )


def _parsing(inner: Handler, parse: Parse, streams_requests: bool) -> Handler:
    """Return a handler that parses raw requests and refuses malformed ones."""

    def parse_one(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError as err:
            raise InvalidArgumentError(
                "request",
                "cannot be parsed: it is another message type, cut off, or has text that is not "
                "UTF-8; send the method's own message",
            ) from err

    async def parse_each(raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in raws:
            yield parse_one(raw)

    def handle(request: Any, context: Context) -> Any:
        return inner(parse_each(request) if streams_requests else parse_one(request), context)

    return handle


class _CallTimer:
    """Observes the duration of one call, labelled with its status code, and records its span."""

    def __init__(self, method: str, context: Context, span: Span) -> None:
        self.code: str | None = None
        self._method = method
        self._context = context
        self._span = span
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        self._span.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = self.code or _code_of(self._context, kind)
        observe(RPC_SECONDS.labels(self._method, code), time.perf_counter() - self._began)
        record_rpc_status(self._span, code)
        self._span.__exit__(None, None, None)


def _code_of(context: Context, kind: type[BaseException] | None) -> str:
    if kind is not None and not issubclass(kind, aio.AbortError):
        return "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code or 0, "UNKNOWN")


def _adopt_request_context(context: Context) -> None:
    metadata = dict(context.invocation_metadata() or ())
    keys = (logs.REQUEST_ID_KEY, logs.TRACEPARENT_KEY)
    received, trace = (str(metadata.get(key, "")) for key in keys)
    logs.adopt_context(received, trace)
    adopt_priority(metadata)


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
