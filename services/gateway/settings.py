"""Settings of the gateway."""

from pathlib import Path

from fleet.settings import FleetSettings
from pydantic import Field


class GatewaySettings(FleetSettings, env_prefix="BEM_GATEWAY_"):
    """Read from ``BEM_GATEWAY_*``."""

    address: str = "127.0.0.1:8080"
    """Where HTTP listens."""

    tls: Path | None = None
    """Folder with ``tls.crt`` and ``tls.key``; with it the edge speaks HTTPS alone."""

    router_address: str = "127.0.0.1:50051"
    """The router's sidecar."""

    validation_address: str = "127.0.0.1:50091"
    """The validation service."""

    fleet_address: str | None = None
    """The orchestrator, which tells how requests are split; unset: all go to stable."""

    validation_timeout_s: float = Field(120.0, gt=0)
    """Deadline of one comparison, the wait for others before it included."""

    request_timeout_s: float = Field(300.0, gt=0)
    """Deadline of one generation, sent along with it."""

    keep_alive_s: int = Field(75, ge=1)
    """How long an idle connection stays open; longer than clients keep theirs in a pool."""

    max_body_bytes: int = Field(1024 * 1024, ge=1024)
    """Largest request body; a larger one is 413."""

    feedback_stream: str = "bem:feedback"
    """Redis stream of the feedback."""
