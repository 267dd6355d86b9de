"""Loaded adapter: one version of an adapter that requests may name."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bem.adapters.artifact import AdapterCard, Factors, read_adapter, read_factors
from bem.artifacts import FileStamp
from bem.controller import Controller
from bem.errors import ArtifactTamperedError

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
        adapts_lower: Whether it adapts the lower half, so that all keys and values are its own.
        composable: Whether it adapts only what controllers drive, so that others may join it.
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
    adapts_lower: bool = False
    composable: bool = True
    loaded_unix_s: float = field(default_factory=time.time)
    slot: int | None = None
    leases: int = 0

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return self.card.rank

    def read_factors(self, base_digest: str) -> dict[str, Factors]:
        """Read the factors again; files written since the adapter was loaded are verified.

        Args:
            base_digest: SHA-256 of the base model that is loaded.

        Raises:
            ArtifactFormatError: The folder was removed or broken.
            ArtifactTamperedError: The folder holds another version now.
            BaseMismatchError: The adapter in it belongs to another base model.
        """
        # Hashing takes most of a page-in, so it is skipped while the stamp is unchanged.
        if factors := read_factors(self.folder, self.card, self.stamp):
            return factors
        adapter = read_adapter(self.folder, base_digest=base_digest)
        # Another version must not be served under the version that requests were told.
        if adapter.version != self.version:
            raise ArtifactTamperedError(
                f"adapter {self.name!r} was loaded as version {self.version[:12]}, its folder "
                f"holds {adapter.version[:12]}; load it again"
            )
        self.stamp = adapter.stamp
        return adapter.factors
