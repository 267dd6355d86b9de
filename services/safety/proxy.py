"""The reverse proxy: any method of the mission, judged on its way out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from bemfleet.common.v1 import text_pb2
from fleet import logs
from fleet.errors import DeniedError, InvalidArgumentError, UnavailableError
from fleet.streams import StreamWriter
from google.protobuf.message import DecodeError, Message
from grpc import aio

from services.safety.audit import AuditRecord
from services.safety.descriptors import Catalog, Method, texts
from services.safety.holdback import HoldBack
from services.safety.judge import Judge, Verdict
from services.safety.settings import SafetySettings

_LOG = logs.get("safety.proxy")
_END = object()
_OWN_HEADERS = ("user-agent", "te", "content-type")


class Proxy(grpc.GenericRpcHandler):
    """Forwards whatever the mission's reflection knows; everything else is UNIMPLEMENTED.

    Args:
        settings: Limits and windows.
        channel: To the mission.
        catalog: The mission's methods.
        judge: Gives verdicts.
        audit: Takes the records.
    """

    def __init__(
        self,
        settings: SafetySettings,
        channel: aio.Channel,
        catalog: Catalog,
        judge: Judge,
        audit: StreamWriter,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._catalog = catalog
        self._judge = judge
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
            self._check_request(method, raw)
            record = AuditRecord(path)
            unary: Any = self._channel.unary_unary(path)
            hold = HoldBack(0, 0, 1)
            try:
                answer: bytes = await unary(
                    raw, metadata=_forwarded(context), timeout=context.time_remaining()
                )
                await self._take(method, answer, hold, record)
                await record.write(self._audit, "OK")
            except aio.AioRpcError as err:
                await record.write(self._audit, err.code().name)
                trailing = tuple(err.trailing_metadata() or ())
                await context.abort(err.code(), err.details() or "", trailing)
            except DeniedError:
                await record.write(self._audit, "CONTENT_FILTERED")
                raise
            finally:
                if not record.written:
                    self._write_late(record)
            return answer

        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(handle)
        return handler

    async def _call(
        self, path: str, method: Method, requests: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes]:
        record = AuditRecord(path)
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        call, sending = await self._open(path, method, requests, arrived, context)
        try:
            async for raw in self._judged(method, call, arrived, record):
                yield raw
        except aio.AioRpcError as err:
            await record.write(self._audit, err.code().name)
            trailing = tuple(err.trailing_metadata() or ())
            await context.abort(err.code(), err.details() or "", trailing)
        except DeniedError:
            await record.write(self._audit, "CONTENT_FILTERED")
            raise
        finally:
            if sending:
                sending.cancel()
            call.cancel()
            if not record.written:
                self._write_late(record)

    async def _open(
        self,
        path: str,
        method: Method,
        requests: Any,
        arrived: asyncio.Queue[Any],
        context: aio.ServicerContext[Any, Any],
    ) -> tuple[Any, asyncio.Task[None] | None]:
        """Open the call to the mission; a single request is checked before anything is opened."""
        limit, metadata = context.time_remaining(), _forwarded(context)
        if not method.streams_requests:
            raw = await anext(aiter(requests), b"")
            self._check_request(method, raw)
            unary: Any = self._channel.unary_stream(path)
            return unary(raw, metadata=metadata, timeout=limit), None
        streaming: Any = self._channel.stream_stream(path)
        call = streaming(metadata=metadata, timeout=limit)
        sending = asyncio.create_task(self._send(method, requests, call))
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

    async def _send(self, method: Method, requests: Any, call: Any) -> None:
        """Check and forward the client's messages."""
        async for raw in requests:
            self._check_request(method, raw)
            await call.write(raw)
        await call.done_writing()

    def _check_request(self, method: Method, raw: bytes) -> None:
        name = method.request.DESCRIPTOR.name
        for field, _, text in texts(_parse(method.request, raw, InvalidArgumentError)):
            if len(text) > self._settings.max_text_chars:
                raise InvalidArgumentError(
                    field,
                    f"{name}.{field} has {len(text)} characters; "
                    f"the limit is {self._settings.max_text_chars}",
                )

    async def _judged(
        self, method: Method, call: Any, arrived: asyncio.Queue[Any], record: AuditRecord
    ) -> AsyncGenerator[bytes]:
        """Yield what may leave, in order; the record is written before the last of it."""
        hold = HoldBack(
            self._settings.window_chars, self._settings.context_chars, self._settings.stride_chars
        )
        reading = asyncio.create_task(_read(call, arrived))
        ended = False
        failure: Exception | None = None
        try:
            while not ended:
                entries = [await arrived.get()]
                while not arrived.empty():  # what came while the scorer worked is judged at once
                    entries.append(arrived.get_nowait())
                ended, failure = await self._take_all(method, entries, hold, record)
                await self._judge_new(hold, record, ended=ended)
                if not ended:
                    for raw in method.join(list(hold.releasable(ended=False))):
                        yield raw
        finally:
            reading.cancel()
        if failure is None:
            await record.write(self._audit, "OK")
        elif not isinstance(failure, aio.AioRpcError):
            raise failure
        for raw in method.join(list(hold.releasable(ended=True))):
            yield raw
        if failure:
            raise failure

    async def _take_all(
        self, method: Method, entries: list[Any], hold: HoldBack, record: AuditRecord
    ) -> tuple[bool, Exception | None]:
        """Take in what arrived; returns whether the stream ended, and what ended it."""
        for entry in entries:
            if entry is _END:
                return True, None
            if isinstance(entry, Exception):
                return True, entry
            await self._take(method, entry, hold, record)
        return False, None

    async def _take(self, method: Method, raw: bytes, hold: HoldBack, record: AuditRecord) -> None:
        """Judge whole texts of one message at once, and add its stream text to the hold-back."""
        delta = ""
        for _, role, text in texts(_parse(method.response, raw, _unreadable)):
            if role == text_pb2.TEXT_ROLE_OUTPUT_DELTA and method.streams_responses:
                delta += text
            elif text:
                record.saw(text)
                self._enforce(await self._judge.check(text), record)
        record.saw(delta)
        hold.add(raw, delta)

    async def _judge_new(self, hold: HoldBack, record: AuditRecord, *, ended: bool) -> None:
        if text := hold.unjudged(ended=ended):
            length = len(hold.text)
            self._enforce(await self._judge.check(text), record)
            hold.passed(length)

    def _enforce(self, verdict: Verdict, record: AuditRecord) -> None:
        record.judged(verdict)
        if not verdict.allowed:
            raise DeniedError(
                f"the answer was withheld: {verdict.category}",
                "CONTENT_FILTERED",
                {"category": verdict.category, "score": f"{verdict.score:.3f}"},
            )


def _forwarded(context: aio.ServicerContext[Any, Any]) -> list[tuple[str, Any]]:
    """Return the client's metadata without what belongs to its own connection."""
    return [
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if key not in _OWN_HEADERS and not key.startswith("grpc-")
    ]


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


def _parse(kind: type[Message], raw: bytes, problem: Any) -> Message:
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError as err:
        raise problem(
            kind.DESCRIPTOR.name, "cannot be parsed: not this message, or a text is not UTF-8"
        ) from err
    return message


def _unreadable(name: str, text: str) -> UnavailableError:
    return UnavailableError(f"the mission's {name} {text}; nothing may leave")
