"""The reverse proxy: any method of the mission, judged on its way out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from bem_fleet.services.safety.response_guard import ResponseGuard
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Catalog, Method
from bem_fleet.services.safety.holdback import HoldBack
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.request_guard import FILTERED, RequestGuard
from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.audit_chain import ChainWriter
from fleet.errors import DeniedError, UnavailableError
from grpc import aio

_LOG = logs.get("safety.proxy")
_END = object()


class Proxy(grpc.GenericRpcHandler):
    """Forwards whatever the mission's reflection knows; everything else is UNIMPLEMENTED.

    Args:
        settings: Limits and windows.
        channel: To the mission.
        catalog: The mission's methods.
        judge: Gives verdicts.
        entry: Checks requests.
        audit: Takes the records.
    """

    def __init__(
        self,
        settings: SafetySettings,
        channel: aio.Channel,
        catalog: Catalog,
        *,
        judge: PolicyEvaluator,
        entry: RequestGuard,
        audit: ChainWriter,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._catalog = catalog
        self._judge = judge
        self._entry = entry
        self._audit = audit
        self._late: set[asyncio.Task[None]] = set()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return a handler that works for all four kinds of calls: on the wire they are alike."""
        path = handler_call_details.method
        method = self._catalog.find(path)
        if method is None and self._catalog.services:
            return None

        if method and not method.streams_requests and not method.streams_responses:
            return self._unary_handler(path, method)

        def handle(requests: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            if method is None:
                raise UnavailableError("the mission behind the sidecar has not been reached yet")
            return self._call(path, method, requests, context)

        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(handle)
        return handler

    def _unary_handler(self, path: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a unary method: one message each way, one batch each way."""

        async def handle(raw: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
            record = AuditRecord(path)
            unary: Any = self._channel.unary_unary(path)
            leaving = ResponseGuard(method, self._judge, record, HoldBack(0, 0, 1))
            try:
                metadata = self._entry.metadata(context, record)
                leaving.asked = await self._entry.check(method, raw, record)
                answer: bytes = await unary(
                    raw, metadata=metadata, timeout=context.time_remaining()
                )
                clean = await leaving.whole(answer)
                await record.write(self._audit, "OK")
            except aio.AioRpcError as err:
                await record.write(self._audit, err.code().name)
                trailing = tuple(err.trailing_metadata() or ())
                await context.abort(err.code(), err.details() or "", trailing)
            except DeniedError:
                await record.write(self._audit, FILTERED)
                raise
            finally:
                if not record.written:
                    self._write_late(record)
            return clean

        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(handle)
        return handler

    async def _call(
        self, path: str, method: Method, requests: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes]:
        record = AuditRecord(path)
        hold = HoldBack(
            self._settings.window_chars, self._settings.context_chars, self._settings.stride_chars
        )
        leaving = ResponseGuard(method, self._judge, record, hold)
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        call: Any = None
        sending: asyncio.Task[None] | None = None
        try:
            call, sending = await self._open(path, requests, arrived, context, leaving)
            async for raw in self._judged(call, arrived, record, leaving):
                yield raw
        except aio.AioRpcError as err:
            await record.write(self._audit, err.code().name)
            trailing = tuple(err.trailing_metadata() or ())
            await context.abort(err.code(), err.details() or "", trailing)
        except DeniedError:
            await record.write(self._audit, FILTERED)
            raise
        finally:
            if sending:
                sending.cancel()
            if call:
                call.cancel()
            if not record.written:
                self._write_late(record)

    async def _open(
        self,
        path: str,
        requests: Any,
        arrived: asyncio.Queue[Any],
        context: aio.ServicerContext[Any, Any],
        leaving: ResponseGuard,
    ) -> tuple[Any, asyncio.Task[None] | None]:
        """Open the call to the mission; a single request is checked before anything is opened."""
        method = leaving.method
        metadata = self._entry.metadata(context, leaving.record)
        if not method.streams_requests:
            raw = await anext(aiter(requests), b"")
            leaving.asked = await self._entry.check(method, raw, leaving.record)
            unary: Any = self._channel.unary_stream(path)
            return unary(raw, metadata=metadata, timeout=context.time_remaining()), None
        streaming: Any = self._channel.stream_stream(path)
        call = streaming(metadata=metadata, timeout=context.time_remaining())
        sending = asyncio.create_task(self._send(method, requests, call, leaving))
        sending.add_done_callback(lambda done: _report(done, arrived))
        return call, sending

    def _write_late(self, record: AuditRecord) -> None:
        """Record a call whose client left or that failed: some of its text may be out."""

        async def write() -> None:
            try:
                await record.write(self._audit, "ENDED_EARLY")
            except UnavailableError as err:
                _LOG.error("audit record lost", method=record.method, reason=str(err))

        task = asyncio.create_task(write())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _send(self, method: Method, requests: Any, call: Any, leaving: ResponseGuard) -> None:
        """Check and forward the client's messages, each with the end of those before it."""
        async for raw in requests:
            before = leaving.asked[-self._settings.context_chars :]
            leaving.asked = await self._entry.check(method, raw, leaving.record, before)
            await call.write(raw)
        await call.done_writing()

    async def _judged(
        self, call: Any, arrived: asyncio.Queue[Any], record: AuditRecord, leaving: ResponseGuard
    ) -> AsyncGenerator[bytes]:
        """Yield what may leave, in order; the record is written before the last of it."""
        reading = asyncio.create_task(_read(call, arrived))
        ended = False
        failure: Exception | None = None
        try:
            while not ended:
                ended, failure = await _take_all(arrived, leaving)
                await leaving.judge_new(ended=ended)
                if not ended:
                    for raw in leaving.leaving(ended=False):
                        yield raw
        finally:
            reading.cancel()
        last = list(leaving.leaving(ended=True))
        if failure is None:
            await record.write(self._audit, "OK")
        elif not isinstance(failure, aio.AioRpcError):
            raise failure
        for raw in last:
            yield raw
        if failure:
            raise failure


async def _take_all(arrived: asyncio.Queue[Any], leaving: ResponseGuard) -> tuple[bool, Exception | None]:
    """Take in what arrived; returns whether the stream ended, and what ended it."""
    entries = [await arrived.get()]
    while not arrived.empty():  # what came while the scorer worked is judged at once
        entries.append(arrived.get_nowait())
    for entry in entries:
        if entry is _END:
            return True, None
        if isinstance(entry, Exception):
            return True, entry
        await leaving.take(entry)
    return False, None


async def _read(call: Any, arrived: asyncio.Queue[Any]) -> None:
    try:
        async for raw in call:
            arrived.put_nowait(raw)
    except aio.AioRpcError as err:
        arrived.put_nowait(err)
    else:
        arrived.put_nowait(_END)


def _report(sending: asyncio.Task[None], arrived: asyncio.Queue[Any]) -> None:
    """Pass on why sending failed; that the mission ended the call first is no failure of ours."""
    if sending.cancelled():
        return
    err = sending.exception()
    if isinstance(err, Exception) and not isinstance(err, asyncio.InvalidStateError):
        arrived.put_nowait(err)
