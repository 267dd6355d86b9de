"""Settings that every service has; each service adds its own under its own prefix."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class FleetSettings(BaseSettings):
    """Read from the environment; a subclass names its prefix, such as ``BEM_ROUTER_``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)

    address: str = Field("127.0.0.1:50051", min_length=1)
    """Where gRPC listens: ``host:port``, or ``unix:/path`` for a process without a network port."""

    metrics_address: str | None = None
    """``host:port`` of the Prometheus text page; unset where a sidecar is scraped instead."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis that holds the streams."""

    drain_s: float = Field(30.0, ge=0)
    """Seconds that requests in flight get to finish after SIGTERM."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severe level that is written."""

    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """Largest gRPC message accepted, in bytes; a larger one is RESOURCE_EXHAUSTED."""

    reflection: bool = True
    """Whether generic clients may list and describe the services."""
