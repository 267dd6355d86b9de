"""Settings of the validation service."""

from pathlib import Path

from bem_fleet.acceptance.catalogue import CENTRAL_GATES
from fleet.settings import FleetSettings
from fleet.wire import CLAIMS_STREAM
from pydantic import Field


class ValidationSettings(FleetSettings, env_prefix="BEM_VALIDATION_"):
    """Settings read from ``BEM_VALIDATION_*``."""

    address: str = "127.0.0.1:50091"
    """Address on which gRPC listens."""

    gates: Path = CENTRAL_GATES
    """File with the fleet's metrics and gates."""

    claims_stream: str = Field(CLAIMS_STREAM, min_length=1)
    """Redis stream of the claims, and the prefix of its indices."""

    missions: dict[str, str] = Field({})
    """gRPC target of each mission's sidecar by mission name, as a JSON object: where probes go."""

    canaries: dict[str, str] = Field({})
    """gRPC target of the canary's own pods by mission name, as a JSON object."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """False discovery rate that a gate's adjusted p-value must keep."""

    resamples: int = Field(10_000, ge=1000, le=100_000)
    """Number of resamples of each bootstrap."""

    max_scores: int = Field(400_000, ge=4)
    """Maximum number of scores in one call, both sides and all metrics; bounds its CPU time."""

    workers: int = Field(1, ge=1, le=64)
    """Number of comparisons computed at once, each in a thread of its own."""

    max_queued: int = Field(15, ge=0, le=4096)
    """Comparisons that may wait or upload besides; a further one is RESOURCE_EXHAUSTED."""

    probe_timeout_s: float = Field(30.0, gt=0)
    """Timeout of one answer to a canary's probe, in seconds."""

    upload_timeout_s: float = Field(60.0, gt=0)
    """Timeout of a streamed upload, in seconds."""
