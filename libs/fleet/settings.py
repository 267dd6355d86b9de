"""Common settings of all services, read from the environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.wire import AUDIT_STREAM


class FleetSettings(BaseSettings):
    """Settings from environment variables; a subclass sets the prefix, such as ``BEM_ROUTER_``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)

    address: str = Field("127.0.0.1:50051", min_length=1)
    """Listen address of gRPC: ``host:port``, or ``unix:/path`` for a process without a port."""

    metrics_address: str | None = None
    """``host:port`` of the Prometheus page; unset if a sidecar is scraped instead."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis of the fleet, in redis-py's URL form; ``rediss://`` takes ``ssl_*`` options."""

    drain_s: float = Field(30.0, ge=0)
    """Longest wait for requests in flight after SIGTERM, in seconds."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severe level that is logged."""

    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """Largest accepted gRPC message, in bytes; a larger one is RESOURCE_EXHAUSTED."""

    reflection: bool = True
    """Whether gRPC reflection is served; the sidecar and the gateway need it of a mission."""

    keys_file: Path | None = None
    """File with the hashes of API keys, reloaded when it changes; unset: nobody is an operator."""

    service_key_file: Path | None = None
    """File with the key that calls to other services carry."""

    audit_stream: str = AUDIT_STREAM
    """Redis stream of the audit records."""

    audit_key_file: Path | None = None
    """File with the secret of the audit chain's HMAC; without one the chain is a plain hash."""
