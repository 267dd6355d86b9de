"""Settings of the sep mission."""

from pathlib import Path

from bem_fleet.serving import EngineSettings
from pydantic import Field


class SepSettings(EngineSettings, env_prefix="BEM_SEP_"):
    """Settings of mission sep, read from ``BEM_SEP_*``."""

    address: str = "unix:.run/sep.sock"
    """Unix socket, which only the sidecar can reach."""

    rows: int = Field(4, ge=1, le=256)
    """Requests that run at once."""

    prefix_mib: int = Field(16, ge=0, le=1_048_576)
    """Memory of the prefix cache in MiB; 0 disables it."""

    front: Path = Path("adapters/sep")
    """Folder of the surface front and of the embedding head; without ``front.json`` the base model
    is served as it is, without ``embedding.json`` plain means of states, and warnings say so."""

    embed_tokens: int = Field(1024, ge=16, le=65_536)
    """Tokens that are embedded between two decode steps; a larger number delays answers."""
