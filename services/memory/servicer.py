"""Servicer of ``bemfleet.memory.v1.MemoryService``: messages in, host calls, messages out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from bem import errors
from bem.memory.coverage import covered_spans
from bem.memory.session import SessionMemory
from bem_fleet.services.memory.answering import Inquiry, MemoryHolder
from bem_fleet.services.memory.ingestion import Ingestion, Progress, ingest
from bem_fleet.services.memory.metrics import QUERY_SECONDS
from bem_fleet.services.memory.reader import CitedSpan
from bem_fleet.services.memory.session_keys import owner_of, session_key
from bem_fleet.services.memory.session_store import QuotaExceededError, SessionStore
from bem_fleet.services.memory.settings import MemorySettings
from bem_fleet.serving import STATUS as SERVING_STATUS
from bemfleet.memory.v1 import memory_pb2 as pb
from bemfleet.memory.v1 import memory_pb2_grpc as rpc
from fleet.errors import FailedPreconditionError, InvalidArgumentError, StatusTable
from grpc import aio

DEFAULT_TOKENS, MAX_TOKENS = 48, 256
DEFAULT_PAGE, MAX_PAGE = 200, 500
SNAPSHOT_PART_BYTES = 2**20
STATUS: StatusTable = {
    **SERVING_STATUS,
    errors.MemoryFormatError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MemoryMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Context = aio.ServicerContext


class MemoryServicer(rpc.MemoryServiceServicer):
    """Serves MemoryService.

    Args:
        holder: Holder of the memory host.
        store: Sessions in Redis.
        settings: Limits and defaults.
    """

    def __init__(self, holder: MemoryHolder, store: SessionStore, settings: MemorySettings) -> None:
        self._holder, self._store, self._settings = holder, store, settings

    async def Ingest(
        self, request_iterator: AsyncIterator[pb.IngestRequest], context: Context[Any, Any]
    ) -> AsyncIterator[pb.IngestResponse]:
        """Read a document into a session."""
        host = self._holder.get()
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "head":
            raise InvalidArgumentError("head", "the first message of the stream must be the head")
        work = self._ingestion(first.head, context)
        async for progress in ingest(host, work, _texts(request_iterator)):
            yield _progress_message(progress)

    async def Query(
        self, request: pb.QueryRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.QueryResponse]:
        """Answer a question with citations."""
        host = self._holder.get()
        settings = self._settings
        tokens = request.max_tokens if request.HasField("max_tokens") else DEFAULT_TOKENS
        _check_range("max_tokens", tokens, 0, MAX_TOKENS)
        threshold = request.threshold if request.HasField("threshold") else settings.threshold
        _check_range("threshold", threshold, 0, 1)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        key = session_key(request.session, context)
        hops = request.hops if request.HasField("hops") else 2
        with QUERY_SECONDS.time():
            findings = await host.find(Inquiry(key, request.question, hops, threshold))
            for span in findings.spans:
                yield pb.QueryResponse(span=_span_message(span))
            outcome = pb.Outcome(found=findings.found, confidence=findings.confidence)
            if findings.found and tokens:
                answer = await host.answer(
                    findings,
                    request.question,
                    model=request.model,
                    max_tokens=tokens,
                    deadline=deadline,
                )
                outcome.answer = answer.text.strip()
                outcome.model_version = answer.model_version
                outcome.completion_tokens = answer.completion_tokens
        yield pb.QueryResponse(outcome=outcome)

    async def Coverage(
        self, request: pb.CoverageRequest, context: Context[Any, Any]
    ) -> pb.CoverageResponse:
        """List what a session still knows."""
        host = self._holder.get()
        limit = request.limit if request.HasField("limit") else DEFAULT_PAGE
        _check_range("limit", limit, 1, MAX_PAGE)
        _check_range("after", request.after, 0, 2**32)
        async with host.sessions.use(session_key(request.session, context)) as session:
            memory = session.content
            spans, following = await asyncio.to_thread(
                covered_spans, memory, host.encoder.tokenizer, after=request.after, limit=limit
            )
            return pb.CoverageResponse(
                documents=_document_messages(memory),
                spans=[pb.CoveredSpan(**vars(one)) for one in spans],
                next=following or 0,
                sentences=memory.counts.written,
                kept=len(memory.store),
                budget_bytes=memory.size_bytes,
            )

    async def ListSessions(
        self,
        request: pb.ListSessionsRequest,  # noqa: ARG002 - the signature is gRPC's
        context: Context[Any, Any],
    ) -> pb.ListSessionsResponse:
        """List the caller's sessions."""
        listed = await self._store.sessions(owner_of(context))
        return pb.ListSessionsResponse(
            sessions=[pb.Session(name=name, expires_unix_s=end) for name, end in listed],
            limit=self._settings.max_sessions,
        )

    async def Forget(
        self, request: pb.ForgetRequest, context: Context[Any, Any]
    ) -> pb.ForgetResponse:
        """Forget a document or a session."""
        sessions = self._holder.get().sessions
        async with sessions.use(session_key(request.session, context)) as session:
            return pb.ForgetResponse(sentences=await sessions.forget(session, request.document))

    async def Snapshot(
        self, request: pb.SnapshotRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.SnapshotResponse]:
        """Return a session as bytes."""
        sessions = self._holder.get().sessions
        async with sessions.use(session_key(request.session, context)) as session:
            content = await sessions.compact(session)
        for at in range(0, len(content), SNAPSHOT_PART_BYTES):
            yield pb.SnapshotResponse(content=content[at : at + SNAPSHOT_PART_BYTES])

    async def Restore(
        self, request_iterator: AsyncIterator[pb.RestoreRequest], context: Context[Any, Any]
    ) -> pb.RestoreResponse:
        """Make a session of a snapshot."""
        sessions = self._holder.get().sessions
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "session":
            raise InvalidArgumentError(
                "session", "the first message of the stream must be the session"
            )
        key = session_key(first.session, context)
        content = await self._read_snapshot(request_iterator)
        memory = await asyncio.to_thread(sessions.restored, content)
        _check_range("budget_bytes", memory.size_bytes, 65_536, self._settings.max_budget_bytes)
        async with sessions.use(key) as session:
            if session.memory is not None:
                raise FailedPreconditionError(
                    f"session: {key.name!r} exists; forget it first, or use another name"
                )
            sessions.check_not_written(session)
            await sessions.adopt(session, memory)
        return pb.RestoreResponse(documents=_document_messages(memory), kept=len(memory.store))

    def _ingestion(self, head: pb.IngestHead, context: Context[Any, Any]) -> Ingestion:
        settings = self._settings
        budget = head.budget_bytes if head.HasField("budget_bytes") else settings.budget_bytes
        _check_range("budget_bytes", budget, 65_536, settings.max_budget_bytes)
        _check_range("offset", head.offset, 0, 2**32)
        return Ingestion(
            key=session_key(head.session, context),
            document=head.document,
            offset=head.offset,
            budget_bytes=budget,
            max_chars=settings.max_session_chars,
        )

    async def _read_snapshot(self, requests: AsyncIterator[pb.RestoreRequest]) -> bytes:
        content = bytearray()
        limit = self._settings.max_budget_bytes + SNAPSHOT_PART_BYTES
        async for request in requests:
            if request.WhichOneof("part") != "content":
                raise InvalidArgumentError("content", "all messages after the session must be it")
            content += request.content
            if len(content) > limit:
                raise InvalidArgumentError(
                    "content", f"has more than {limit} bytes, the limit; restore a smaller session"
                )
        return bytes(content)


async def _texts(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[str | None]:
    """Yield the texts of a stream, and None at the end of the document."""
    async for request in requests:
        part = request.WhichOneof("part")
        if part == "text":
            yield request.text
        elif part == "end" and request.end:
            yield None
        else:
            raise InvalidArgumentError("part", "after the head come texts, and end with true")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    # Written so that NaN is refused too.
    if not low <= value <= high:
        raise InvalidArgumentError(
            field, f"{value:g} is out of range; the limits are {low:g} and {high:g}"
        )


def _progress_message(progress: Progress) -> pb.IngestResponse:
    return pb.IngestResponse(**vars(progress))


def _span_message(span: CitedSpan) -> pb.Span:
    return pb.Span(**vars(span), end=span.begin + len(span.text))


def _document_messages(memory: SessionMemory) -> list[pb.Document]:
    return [
        pb.Document(name=one.name, characters=one.end - one.begin, complete=one.complete)
        for one in memory.documents
    ]
