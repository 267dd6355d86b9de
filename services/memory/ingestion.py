"""Ingestion: a stream of texts becomes acknowledged write batches of a session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bem.memory import SessionConfig, SessionMemory
from bem_fleet.services.memory.answering import MemoryHost
from bem_fleet.services.memory.metrics import CHARACTERS, INGEST_SECONDS
from bem_fleet.services.memory.session_cache import CachedSession
from bem_fleet.services.memory.session_keys import SessionKey
from bem_fleet.services.memory.session_store import QuotaExceededError
from fleet.errors import FailedPreconditionError, InvalidArgumentError
from fleet.tracing import span

MAX_TEXT_CHARS = 32_768
"""Characters of one text; a sidecar's limit for a message is four times as large."""


@dataclass(frozen=True)
class Ingestion:
    """What a stream is about to read.

    Attributes:
        key: Key of the session.
        document: Name of the document.
        offset: Characters of the document that were acknowledged before.
        budget_bytes: Bytes of a session that is made.
        max_chars: Largest number of characters of the session.
    """

    key: SessionKey
    document: str
    offset: int
    budget_bytes: int
    max_chars: int


@dataclass(frozen=True)
class Progress:
    """State of an ingestion.

    Attributes:
        acknowledged: Characters of the document that are durable.
        sentences: Sentences of the session since its beginning.
        kept: Sentences that are kept.
        evicted: Sentences that were overwritten.
        complete: Whether the document is complete.
        tokens: Tokens of the last part.
    """

    acknowledged: int
    sentences: int
    kept: int
    evicted: int
    complete: bool
    tokens: int


async def ingest(
    host: MemoryHost, work: Ingestion, texts: AsyncIterator[str | None]
) -> AsyncIterator[Progress]:
    """Read texts into a session and yield the progress after each, once it is durable.

    The next text is taken after the progress of the last one was sent, so that a client cannot send
    more than the connection's window ahead of the service.

    Args:
        host: Encoder and sessions.
        work: Session, document and limits.
        texts: Texts in order; None ends the document.

    Raises:
        InvalidArgumentError: A text is too long.
        FailedPreconditionError: The offset is not the acknowledged one, or another stream writes.
        QuotaExceededError: The session's text or the number of sessions is at its limit.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.sessions.writing(work.key))
        async with host.sessions.use(work.key) as session:
            await _begin(host, session, work)
        async for text in texts:
            _check_text(text)
            size = {"bem.memory.characters": len(text or "")}
            with INGEST_SECONDS.time(), span("memory.ingest", size):
                progress = await _read(host, work, text)
            CHARACTERS.inc(len(text or ""))
            yield progress
            if progress.complete:
                return


async def _begin(host: MemoryHost, session: CachedSession, work: Ingestion) -> None:
    if session.memory is None:
        config = SessionConfig(budget_bytes=work.budget_bytes)
        memory = SessionMemory(config, host.encoder.modules)
        memory.check_document(work.document)
        _check_offset(memory, work)
        await host.sessions.adopt(session, memory)
        return
    _check_offset(session.memory, work)
    if not _continues(session.memory, work):
        session.memory.check_document(work.document)


def _check_offset(memory: SessionMemory, work: Ingestion) -> None:
    acknowledged = _acknowledged(memory, work) if _continues(memory, work) else 0
    if work.offset != acknowledged:
        raise FailedPreconditionError(
            f"offset: {acknowledged} characters of {work.document!r} are acknowledged, not "
            f"{work.offset}; continue at {acknowledged}"
        )


def _continues(memory: SessionMemory, work: Ingestion) -> bool:
    opened = memory.open_document
    return opened is not None and opened.name == work.document


def _acknowledged(memory: SessionMemory, work: Ingestion) -> int:
    found = [one for one in memory.documents if one.name == work.document]
    return found[-1].end - found[-1].begin if found else 0


def _check_text(text: str | None) -> None:
    if text is not None and len(text) > MAX_TEXT_CHARS:
        raise InvalidArgumentError(
            "text", f"has {len(text)} characters; at most {MAX_TEXT_CHARS} are allowed; divide it"
        )


async def _read(host: MemoryHost, work: Ingestion, text: str | None) -> Progress:
    """Encode, store and apply one text."""
    async with host.sessions.use(work.key) as session:
        memory = session.content
        if memory.cursor.position + len(text or "") > work.max_chars:
            raise QuotaExceededError(
                f"text: the session has {memory.cursor.position} characters; {work.max_chars} is "
                "the limit; use another session"
            )
        async with host.encoding:
            batch = await asyncio.to_thread(
                host.encoder.batch, memory.cursor, text or "", work.document, ends=text is None
            )
        await host.sessions.write(session, batch)
        return Progress(
            acknowledged=_acknowledged(memory, work),
            sentences=memory.counts.written,
            kept=len(memory.store),
            evicted=memory.counts.evicted,
            complete=text is None,
            tokens=int(batch.writes["tokens"].sum()),
        )
