"""Common settings of all services, read from the environment."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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

    max_metadata_bytes: int = Field(16 * 1024, ge=1024)
    """Largest metadata of a gRPC call, in bytes; a larger one is RESOURCE_EXHAUSTED."""

    max_concurrent_calls: int = Field(1024, ge=1)
    """gRPC calls that are open at once; a further one is RESOURCE_EXHAUSTED."""

    idle_connection_s: float = Field(300.0, gt=0)
    """Lifetime of a gRPC connection without a call, in seconds; clients connect again by
    themselves."""

    stalled_stream_s: float = Field(20.0, gt=0)
    """Longest time in which a client reads nothing of a gRPC stream that waits for it, in seconds;
    then the call is cancelled and its work ends."""

    reflection: bool = True
    """Whether gRPC reflection is served; the sidecar and the gateway need it of a mission."""
