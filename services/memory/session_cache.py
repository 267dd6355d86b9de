"""Session cache: the sessions of one process, each the same as in Redis."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bem.memory import MemoryModules, SessionMemory, WriteBatch, snapshot
from bem_fleet.services.memory.metrics import CACHED, COMPACTIONS, LOADS, SENTENCES
from bem_fleet.services.memory.session_keys import SessionKey
from bem_fleet.services.memory.session_store import SessionStore, StoredSession
from fleet.errors import FailedPreconditionError, NotFoundError


@dataclass
class CachedSession:
    """A session in the process.

    Attributes:
        key: Key of the session.
        memory: Content of the session; None before it was read, and if it does not exist.
        version: Version in Redis that the memory has.
        journal: Batches in Redis since the last snapshot.
        written: Whether a stream is writing to it.
        users: Calls that hold it.
        lock: Held while memory and version change.
    """

    key: SessionKey
    memory: SessionMemory | None = None
    version: int = 0
    journal: int = 0
    written: bool = False
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def content(self) -> SessionMemory:
        """The memory.

        Raises:
            NotFoundError: The session does not exist.
        """
        if self.memory is None:
            raise NotFoundError(
                f"session: {self.key.name!r} does not exist or has ended; ingest a document first"
            )
        return self.memory


class SessionCache:
    """Sessions by key; the least lately used ones leave the process.

    Args:
        store: Sessions in Redis.
        modules: Learned parts.
        model_version: Digests of base model and modules, which snapshots carry.
        capacity: Sessions that stay in the process.
        compact_batches: Journal entries after which a session is stored as a snapshot.
    """

    def __init__(
        self,
        store: SessionStore,
        modules: MemoryModules,
        model_version: str,
        *,
        capacity: int,
        compact_batches: int,
    ) -> None:
        self._store, self._modules, self._model_version = store, modules, model_version
        self._capacity, self._compact_batches = capacity, compact_batches
        self._sessions: OrderedDict[SessionKey, CachedSession] = OrderedDict()

    @asynccontextmanager
    async def use(self, key: SessionKey) -> AsyncIterator[CachedSession]:
        """Lend a session, as Redis has it, under its lock.

        If the body fails, the session leaves the process: what Redis has is what counts.
        """
        session = self._sessions.setdefault(key, CachedSession(key))
        self._sessions.move_to_end(key)
        session.users += 1
        try:
            async with session.lock:
                try:
                    await self._refresh(session)
                    yield session
                except BaseException:
                    session.memory, session.version = None, 0
                    raise
        finally:
            session.users -= 1
            self._shrink()

    @asynccontextmanager
    async def writing(self, key: SessionKey) -> AsyncIterator[None]:
        """Reserve a session for one stream of writes.

        Raises:
            FailedPreconditionError: Another stream is writing to it.
        """
        session = self._sessions.setdefault(key, CachedSession(key))
        self.check_not_written(session)
        session.written = True
        session.users += 1
        try:
            yield
        finally:
            session.written = False
            session.users -= 1
            self._shrink()

    def check_not_written(self, session: CachedSession) -> None:
        """Check that no stream is writing to a session.

        Raises:
            FailedPreconditionError: One is.
        """
        if session.written:
            raise FailedPreconditionError(
                f"session: {session.key.name!r} is being written by another call; wait for its end"
            )

    async def adopt(self, session: CachedSession, memory: SessionMemory) -> SessionMemory:
        """Store a memory in place of a session's."""
        content = await asyncio.to_thread(snapshot.dump, memory, self._model_version)
        session.version = await self._store.replace(session.key, session.version, content)
        session.memory, session.journal = memory, 0
        return memory

    async def write(self, session: CachedSession, batch: WriteBatch) -> None:
        """Add a batch: first durably in Redis, then in the process."""
        memory = session.content
        before = vars(memory.counts).copy()
        session.version = await self._store.append(session.key, session.version, batch.to_bytes())
        session.journal += 1
        await asyncio.to_thread(memory.apply, batch)
        for outcome, count in vars(memory.counts).items():
            SENTENCES.labels(outcome).inc(count - before[outcome])
        if session.journal >= self._compact_batches:
            await self.compact(session)

    async def compact(self, session: CachedSession) -> bytes:
        """Store the session as a snapshot without a journal, and return the snapshot."""
        content = await asyncio.to_thread(snapshot.dump, session.content, self._model_version)
        session.version = await self._store.replace(session.key, session.version, content)
        session.journal = 0
        COMPACTIONS.inc()
        return content

    async def forget(self, session: CachedSession, document: str) -> int:
        """Remove a document, or the session if ``document`` is empty; returns the sentences."""
        memory = session.content
        self.check_not_written(session)
        if document:
            removed = await asyncio.to_thread(memory.forget, document)
            await self.compact(session)
            return removed
        removed = len(memory.store)
        await self._store.remove(session.key, session.version)
        session.memory, session.version, session.journal = None, 0, 0
        return removed

    def restored(self, content: bytes) -> SessionMemory:
        """Return the memory of a snapshot's bytes; errors as in ``snapshot.load``."""
        return snapshot.load(content, self._modules, self._model_version)

    async def _refresh(self, session: CachedSession) -> None:
        known = session.version if session.memory is not None else 0
        stored = await self._store.read(session.key, known)
        if stored is None:
            session.memory, session.version, session.journal = None, 0, 0
        elif stored.snapshot is not None:
            LOADS.inc()
            session.memory = await asyncio.to_thread(self._load, stored)
            session.version, session.journal = stored.version, len(stored.batches)

    def _load(self, stored: StoredSession) -> SessionMemory:
        memory = self.restored(stored.snapshot or b"")
        for batch in stored.batches:
            memory.apply(WriteBatch.from_bytes(batch))
        return memory

    def _shrink(self) -> None:
        for key in [key for key, one in self._sessions.items() if one.users == 0]:
            if len(self._sessions) > self._capacity or self._sessions[key].memory is None:
                del self._sessions[key]
        CACHED.set(sum(one.memory is not None for one in self._sessions.values()))
