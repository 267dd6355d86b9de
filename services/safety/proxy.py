"""Reverse proxy: forwards every method of the mission and filters requests and responses."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Catalog, Method
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.mission_errors import filter_error
from bem_fleet.services.safety.recent_refusals import RecentRefusals
from bem_fleet.services.safety.request_guard import RequestGuard
from bem_fleet.services.safety.response_guard import ResponseGuard
from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.audit_chain import ChainWriter
from fleet.errors import DeniedError, ForwardedError, UnavailableError, code_and_message
from fleet.wire import CONTENT_FILTERED
from grpc import aio

_LOG = logs.get("safety.proxy")
_END = object()


class Proxy(grpc.GenericRpcHandler):
    """Forwards the methods in the mission's reflection; all others are UNIMPLEMENTED.

    Args:
        settings: Limits and windows.
        channel: Channel to the mission.
        catalog: Methods of the mission.
        evaluator: Policy evaluator.
        request_guard: Guard of all requests.
        audit: Audit chain.
    """

    def __init__(
        self,
        settings: SafetySettings,
        channel: aio.Channel,
        catalog: Catalog,
        *,
        evaluator: PolicyEvaluator,
        request_guard: RequestGuard,
        audit: ChainWriter,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._catalog = catalog
        self._evaluator = evaluator
        self._request_guard = request_guard
        self._audit = audit
        self._refusals = RecentRefusals()
        self._background: set[asyncio.Task[None]] = set()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method.

        Streaming methods, and all methods before the mission is reachable, share one
        stream-stream handler: on the wire the four kinds of calls are alike.
        """
        path = handler_call_details.method
        method = self._catalog.find(path)
        if method is None and self._catalog.services:
            return None

        if method and not method.streams_requests and not method.streams_responses:
            return self._unary_handler(path, method)

        def handle(requests: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            if method is None:
                raise UnavailableError("the mission behind the sidecar is not reachable yet")
            return self._forward(path, method, requests, context)

        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(handle)
        return handler

    def _unary_handler(self, path: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a unary method, without the queue and task of a stream."""

        async def handle(raw: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
            self._refusals.check(path)
            record = AuditRecord(path)
            call: Any = self._channel.unary_unary(path)
            guard = self._response_guard(method, record, HoldBack(0, 0, 1))
            try:
                metadata = self._request_guard.forwarded_metadata(context, record)
                guard.begin(await self._request_guard.check(method, raw, record))
                response: bytes = await call(
                    raw, metadata=metadata, timeout=context.time_remaining()
                )
                filtered = await guard.filter_message(response)
                await record.write(self._audit, "OK")
            except aio.AioRpcError as err:
                raise await self._forwarded(err, record) from err
            except DeniedError:
                await record.write(self._audit, CONTENT_FILTERED)
                raise
            finally:
                if not record.written:
                    self._write_in_background(record)
            return filtered

        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(handle)
        return handler

    async def _forwarded(self, err: aio.AioRpcError, record: AuditRecord) -> ForwardedError:
        """Record the mission's error and return it for the client, its texts redacted."""
        self._refusals.note(record.method, err)
        error = await filter_error(err, self._evaluator)
        code, _ = code_and_message(err)
        await record.write(self._audit, code.name)
        return ForwardedError(code, error.message, error.trailing_metadata)

    def _response_guard(
        self, method: Method, record: AuditRecord, hold_back: HoldBack
    ) -> ResponseGuard:
        context_chars = self._settings.context_chars
        return ResponseGuard(method, self._evaluator, record, hold_back, context_chars)

    async def _forward(
        self, path: str, method: Method, requests: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes]:
        """Yield the filtered responses of a streaming call."""
        self._refusals.check(path)
        record = AuditRecord(path)
        hold_back = HoldBack(
            self._settings.window_chars, self._settings.context_chars, self._settings.stride_chars
        )
        guard = self._response_guard(method, record, hold_back)
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        call: Any = None
        sender: asyncio.Task[None] | None = None
        try:
            call, sender = await self._open(path, requests, inbox, context, guard)
            async for raw in self._filter_responses(call, inbox, guard):
                yield raw
        except aio.AioRpcError as err:
            raise await self._forwarded(err, record) from err
        except DeniedError:
            await record.write(self._audit, CONTENT_FILTERED)
            raise
        finally:
            if sender:
                sender.cancel()
            if call:
                call.cancel()
            if not record.written:
                self._write_in_background(record)

    async def _open(
        self,
        path: str,
        requests: Any,
        inbox: asyncio.Queue[Any],
        context: aio.ServicerContext[Any, Any],
        guard: ResponseGuard,
    ) -> tuple[Any, asyncio.Task[None] | None]:
        """Open the call to the mission; returns it and the task that sends a request stream.

        A single request is checked before the call is opened; the messages of a request stream
        are checked one by one as they are sent.
        """
        method = guard.method
        metadata = self._request_guard.forwarded_metadata(context, guard.record)
        if not method.streams_requests:
            raw = await anext(aiter(requests), b"")
            guard.begin(await self._request_guard.check(method, raw, guard.record))
            unary: Any = self._channel.unary_stream(path)
            return unary(raw, metadata=metadata, timeout=context.time_remaining()), None
        streaming: Any = self._channel.stream_stream(path)
        call = streaming(metadata=metadata, timeout=context.time_remaining())
        sender = asyncio.create_task(self._send_requests(method, requests, call, guard))
        sender.add_done_callback(lambda task: _propagate_send_error(task, inbox))
        return call, sender

    async def _send_requests(
        self, method: Method, requests: Any, call: Any, guard: ResponseGuard
    ) -> None:
        """Check and forward the client's messages, each with the end of the preceding ones."""
        preceding = ""
        async for raw in requests:
            checked = await self._request_guard.check(method, raw, guard.record, preceding)
            guard.begin(checked)
            preceding = checked.text[-self._settings.context_chars :]
            await call.write(raw)
        await call.done_writing()

    def _write_in_background(self, record: AuditRecord) -> None:
        """Record a call that was cancelled or failed: some of its text may have been released."""

        async def write() -> None:
            try:
                await record.write(self._audit, "ENDED_EARLY")
            except UnavailableError as err:
                _LOG.error("audit record lost", method=record.method, reason=str(err))

        task = asyncio.create_task(write())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _filter_responses(
        self, call: Any, inbox: asyncio.Queue[Any], guard: ResponseGuard
    ) -> AsyncGenerator[bytes]:
        """Yield what may be released, in order; the record is written before the last of it."""
        reader = asyncio.create_task(_read_responses(call, inbox))
        ended = False
        failure: Exception | None = None
        try:
            while not ended:
                ended, failure = await _drain(inbox, guard)
                await guard.evaluate_pending(ended=ended)
                if not ended:
                    async for raw in guard.release(ended=False):
                        yield raw
        finally:
            reader.cancel()
        last = [raw async for raw in guard.release(ended=True)]
        if failure is None:
            await guard.record.write(self._audit, "OK")
        elif not isinstance(failure, aio.AioRpcError):
            raise failure
        # What the mission sent before it failed is released before its error.
        for raw in last:
            yield raw
        if failure:
            raise failure


async def _drain(inbox: asyncio.Queue[Any], guard: ResponseGuard) -> tuple[bool, Exception | None]:
    """Add the received messages to the guard.

    Messages that arrived during the last evaluation are taken together: they need one evaluation.

    Returns:
        Whether the stream has ended, and the error that ended it.
    """
    entry = await inbox.get()
    while True:
        if entry is _END:
            return True, None
        if isinstance(entry, Exception):
            return True, entry
        await guard.add(entry)
        # An answer is released before the next one of the same stream begins.
        if inbox.empty() or guard.answers_one:
            return False, None
        entry = inbox.get_nowait()


async def _read_responses(call: Any, inbox: asyncio.Queue[Any]) -> None:
    try:
        async for raw in call:
            inbox.put_nowait(raw)
    except aio.AioRpcError as err:
        inbox.put_nowait(err)
    else:
        inbox.put_nowait(_END)


def _propagate_send_error(sender: asyncio.Task[None], inbox: asyncio.Queue[Any]) -> None:
    """End the response stream with the error of the request stream.

    InvalidStateError only means that the mission ended the call before all requests were sent.
    """
    if sender.cancelled():
        return
    err = sender.exception()
    if isinstance(err, Exception) and not isinstance(err, asyncio.InvalidStateError):
        inbox.put_nowait(err)
