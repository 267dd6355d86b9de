"""Memory hosts of the tiny model on a real Redis, with a reader that repeats its prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from bem_fleet.services.memory.answering import MemoryHost
from bem_fleet.services.memory.session_cache import SessionCache
from bem_fleet.services.memory.session_keys import SessionKey
from bem_fleet.services.memory.session_store import SessionStore
from bem_fleet.serving import GeneratedText
from fleet.testing import RedisServer

from tests.unit.bem.memory.sessions import encoder

MODEL = "tiny+untrained"
KEY = SessionKey("00ff", "notes")


class EchoEngine:
    """Answers every prompt with itself, and keeps the options of the last call."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    async def generate(self, prompt: str, **options: Any) -> GeneratedText:
        """Return the prompt."""
        self.options = options
        return GeneratedText(f" {prompt} ", len(prompt), options["model"] or "base")


def cache_of(store: SessionStore, capacity: int = 8, compact_batches: int = 4) -> SessionCache:
    """Return an empty cache, as a process has after its start."""
    return SessionCache(
        store,
        encoder().modules,
        MODEL,
        capacity=capacity,
        compact_batches=compact_batches,
    )


def host_of(store: SessionStore, **options: Any) -> MemoryHost:
    """Return a memory host with a cache of its own."""
    engine: Any = EchoEngine()
    return MemoryHost(
        engine,
        encoder(),
        cache_of(store, **options),
        evidence_tokens=600,
        reader_spans=4,
        reader="reader",
    )


@asynccontextmanager
async def stored(redis: RedisServer, **options: Any) -> AsyncIterator[SessionStore]:
    """Open a store, by default with room for three sessions of an owner."""
    made = SessionStore(redis.url, **{"ttl_s": 60, "max_sessions": 3, "timeout_s": 30, **options})
    try:
        yield made
    finally:
        await made.close()


def caller(tenant: str = "", client: str = "web") -> Any:
    """Return the context of a call that a sidecar forwards."""
    metadata = (("bem-tenant", tenant), ("bem-client", client))
    return SimpleNamespace(invocation_metadata=lambda: metadata, time_remaining=lambda: None)


async def parts(*given: Any) -> AsyncIterator[Any]:
    """Yield the messages of a stream."""
    for one in given:
        yield one
