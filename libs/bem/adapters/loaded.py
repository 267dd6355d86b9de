"""Loaded adapter: one version of an adapter that requests may name."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bem.adapters.artifact import AdapterCard
from bem.artifacts import FileStamp
from bem.controller import Controller

Projection = Literal["none", "applied", "exact"]
"""Effect of a reserved subspace on an adapter: it changes no factor, the factors are projected
outside it, or the card asks for exact factors and they are not."""


@dataclass(eq=False)
class LoadedAdapter:
    """One version of an adapter that requests may name.

    Attributes:
        name: Name that requests use.
        version: SHA-256 of the artifact, hexadecimal.
        card: Card of the artifact.
        stamp: Stamp of the files when they were verified.
        folder: Folder that the factors are read from when the adapter becomes resident.
        controller: Controller that sets the code.
        constant_code: Whether the controller sets the same code for every input, as in plain LoRA.
        projection: What a reserved subspace does to the factors.
        loaded_unix_s: Load time, seconds since the epoch.
        slot: Index into the stacks of every site; None while the adapter is not resident.
        leases: Number of requests that use this version now.
    """

    name: str
    version: str
    card: AdapterCard
    stamp: FileStamp
    folder: Path
    controller: Controller
    constant_code: bool
    projection: Projection = "none"
    loaded_unix_s: float = field(default_factory=time.time)
    slot: int | None = None
    leases: int = 0

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return self.card.rank
