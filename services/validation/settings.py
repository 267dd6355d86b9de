"""Settings of the validation service."""

from pathlib import Path

from bem_fleet.acceptance.catalogue import CENTRAL_GATES
from fleet.settings import FleetSettings
from pydantic import Field


class ValidationSettings(FleetSettings, env_prefix="BEM_VALIDATION_"):
    """Read from ``BEM_VALIDATION_*``."""

    address: str = "127.0.0.1:50091"
    """Where gRPC listens."""

    gates: Path = CENTRAL_GATES
    """The fleet's metrics and gates."""

    claims: str = Field("bem:claims", min_length=1)
    """Redis stream of the claims; its indices have this key as their prefix."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """False discovery rate that a gate's adjusted p-value must keep."""

    resamples: int = Field(10_000, ge=1000, le=100_000)
    """Of each bootstrap."""

    max_scores: int = Field(400_000, ge=4)
    """Most scores in one call, both sides and all metrics together; bounds its CPU time."""

    workers: int = Field(1, ge=1, le=64)
    """Comparisons that are computed at once, each in a thread of its own."""

    waiting: int = Field(15, ge=0, le=4096)
    """Comparisons that may wait or upload beside them; one more is RESOURCE_EXHAUSTED."""

    probe_timeout_s: float = Field(30.0, gt=0)
    """Longest time of one answer to a probe of a canary."""

    upload_timeout_s: float = Field(60.0, gt=0)
    """Longest time that a streamed upload may take."""
