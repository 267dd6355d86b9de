"""Settings of the memory mission."""

from pathlib import Path

from bem_fleet.serving import EngineSettings
from pydantic import Field


class MemorySettings(EngineSettings, env_prefix="BEM_MEMORY_"):
    """Read from ``BEM_MEMORY_*``."""

    address: str = "unix:.run/memory.sock"
    """Unix socket, which only the sidecar can reach."""

    rows: int = Field(4, ge=1, le=256)
    """Answers that are written at once."""

    prefix_mib: int = Field(16, ge=0, le=1_048_576)
    """Memory of the prefix cache in MiB; 0 disables it."""

    modules: Path = Path("adapters/memory")
    """Folder of the memory modules; without ``memory.json`` the untrained ones are served, and a
    warning says so."""

    reader: str = ""
    """Adapter that writes answers unless a request names one; empty is the base model."""

    budget_bytes: int = Field(1024 * 1024, ge=65_536, le=67_108_864)
    """Bytes of a session whose ingestion states none; they do not grow with its text."""

    max_budget_bytes: int = Field(4 * 1024 * 1024, ge=65_536, le=67_108_864)
    """Largest bytes of a session that a client may ask for."""

    max_sessions: int = Field(16, ge=1, le=10_000)
    """Sessions of one tenant."""

    max_session_chars: int = Field(16_000_000, ge=1, le=2**32 - 1)
    """Characters of all documents of a session together."""

    session_ttl_s: int = Field(7 * 24 * 3600, ge=1)
    """Time after its last use at which a session ends, in seconds."""

    threshold: float = Field(0.5, ge=0, le=1)
    """Smallest confidence with which something counts as found."""

    evidence_tokens: int = Field(600, ge=48, le=8192)
    """Tokens of cited sentences that the reader gets at most."""

    reader_spans: int = Field(4, ge=1, le=16)
    """Cited spans that the reader gets, those with the highest scores; a small model reads few."""

    cached_sessions: int = Field(64, ge=1, le=10_000)
    """Sessions that are kept in the process; others are read from Redis when they are used."""

    compact_batches: int = Field(32, ge=1, le=10_000)
    """Journal entries after which a session is written as a snapshot."""

    redis_timeout_s: float = Field(5.0, gt=0)
    """Longest wait for Redis, in seconds."""
