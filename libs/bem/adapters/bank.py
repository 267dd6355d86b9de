"""The bank: skills that come and go while requests run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bem.adapters.artifact import Skill, read_skill
from bem.adapters.site import BemSite, RowCodes, install_sites
from bem.backbone import Backbone
from bem.controller import Controller
from bem.errors import ArtifactFormatError, SkillNotFoundError, SlotsFullError

Factors = tuple[Tensor, Tensor]
_NOTHING = 1e-5


@dataclass(eq=False)
class LoadedSkill:
    """One version of a skill in its slot.

    Attributes:
        name: What requests call it.
        version: Digest of its artifact.
        rank: Rank of its factors.
        slot: Index into the stacks of every site.
        controller: Sets its code.
        loaded_unix_s: When it was loaded, seconds since the epoch.
        leases: Requests that use it now.
    """

    name: str
    version: str
    rank: int
    slot: int
    controller: Controller
    loaded_unix_s: float = field(default_factory=time.time)
    leases: int = 0


class SkillBank:
    """Holds up to ``slots`` skills in the sites of one backbone.

    A name that is loaded again gets a new slot; requests in flight keep the version they began
    with, and a slot is free again when its version is replaced or unloaded and its last request
    has ended. Not thread-safe: the engine's worker thread owns it.

    Args:
        backbone: Gets sites installed.
        layers: Decoder layers with sites.
        rank: Highest rank of a skill.
        slots: Number of skills that fit.
        feature_layer: Decoder layer whose output the controllers read; below all sites.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int],
        rank: int,
        slots: int,
        feature_layer: int,
    ) -> None:
        if feature_layer >= min(layers):
            raise ValueError(f"feature layer {feature_layer} is not below the sites {min(layers)}")
        self.rows = RowCodes()
        self.rank = rank
        self.feature_layer = feature_layer
        self.first_layer = min(layers)
        self._backbone = backbone
        self._sites: dict[str, BemSite] = install_sites(
            backbone.model, layers=layers, rank=rank, slots=slots, rows=self.rows
        )
        self._free = list(range(slots))
        self._reserved: dict[str, Tensor] = {}
        self._loaded: dict[str, LoadedSkill] = {}

    def load(self, folder: Path) -> LoadedSkill:
        """Load the skill in ``folder``, replacing an older version of the same name.

        Raises:
            ArtifactFormatError: It does not fit the bank's sites, rank or feature layer.
            ArtifactTamperedError: Its tensors are not those of its card.
            BaseMismatchError: It belongs to another base model.
            SlotsFullError: No slot is free.
        """
        skill = read_skill(folder, base_digest=self._backbone.digest)
        self._check_fit(skill)
        if not self._free:
            raise SlotsFullError(f"all {len(self._loaded)} slots hold skills; unload one first")
        slot = self._free.pop(0)
        self._write(slot, self._kept_out(skill.factors), skill.card.scale)
        width = self._backbone.model.config.hidden_size
        controller = Controller(width, skill.card.rank)
        controller.load_state_dict(skill.controller)
        controller.requires_grad_(requires_grad=False).to(self._backbone.model.device)
        loaded = LoadedSkill(skill.card.name, skill.version, skill.card.rank, slot, controller)
        self._retire(self._loaded.get(loaded.name))
        self._loaded[loaded.name] = loaded
        return loaded

    def reserve(self, bases: Mapping[str, Tensor]) -> None:
        """Keep the outputs of all skills that come out of ``{site path: Q [d_out, k]}``.

        Raises:
            ValueError: Skills are loaded already.
        """
        if self._loaded:
            raise ValueError(f"reserve before loading skills; loaded: {sorted(self._loaded)}")
        self._reserved = {path: q.to(self.device).float() for path, q in bases.items()}

    def place(self, name: str, factors: Mapping[str, Factors], *, scale: float) -> int:
        """Write an adapter that is no skill into a slot of its own, which never gets free.

        Args:
            name: What errors call it.
            factors: ``{site path: (A [r, d_in], B [d_out, r])}``; not kept out of anything.
            scale: Factor of its step.

        Raises:
            ArtifactFormatError: It does not fit the bank's sites or rank.
            SlotsFullError: No slot is free.
        """
        self._check_factors(name, factors)
        if not self._free:
            raise SlotsFullError(f"all {len(self._loaded)} slots hold skills; unload one first")
        slot = self._free.pop(0)
        self._write(slot, factors, scale)
        return slot

    @property
    def device(self) -> torch.device:
        """Where the sites are."""
        found: torch.device = self._backbone.model.device
        return found

    def unload(self, name: str) -> None:
        """Offer ``name`` no longer.

        Raises:
            SkillNotFoundError: It is not loaded.
        """
        loaded = self._find(name)
        del self._loaded[name]
        self._retire(loaded)

    def acquire(self, name: str) -> LoadedSkill:
        """Lease the current version of ``name`` until ``release``.

        Raises:
            SkillNotFoundError: It is not loaded.
        """
        loaded = self._find(name)
        loaded.leases += 1
        return loaded

    def release(self, loaded: LoadedSkill) -> None:
        """End one lease."""
        loaded.leases -= 1
        if loaded.leases == 0 and self._loaded.get(loaded.name) is not loaded:
            self._free.append(loaded.slot)

    def skills(self) -> list[LoadedSkill]:
        """Return the current versions by name."""
        return [self._loaded[name] for name in sorted(self._loaded)]

    def _find(self, name: str) -> LoadedSkill:
        if name not in self._loaded:
            raise SkillNotFoundError(name, sorted(self._loaded))
        return self._loaded[name]

    def _retire(self, loaded: LoadedSkill | None) -> None:
        if loaded and loaded.leases == 0:
            self._free.append(loaded.slot)

    def _check_fit(self, skill: Skill) -> None:
        card = skill.card
        if card.rank > self.rank or card.feature_layer != self.feature_layer:
            raise ArtifactFormatError(
                f"skill {card.name!r} has rank {card.rank} and feature layer {card.feature_layer}; "
                f"the bank takes rank <= {self.rank} and feature layer {self.feature_layer}"
            )
        self._check_factors(card.name, skill.factors)

    def _check_factors(self, name: str, factors: Mapping[str, Factors]) -> None:
        for path, (a, b) in factors.items():
            site = self._sites.get(path)
            if site is None:
                raise ArtifactFormatError(f"skill {name!r}: {path} is no site of this bank")
            if a.shape[0] > self.rank:
                raise ArtifactFormatError(
                    f"skill {name!r} has rank {a.shape[0]}; the bank takes rank <= {self.rank}"
                )
            if a.shape[1] != site.A.shape[2] or b.shape[0] != site.B.shape[1]:
                raise ArtifactFormatError(f"skill {name!r}: {path} has the wrong width")

    def _kept_out(self, factors: Mapping[str, Factors]) -> dict[str, Factors]:
        """Remove the reserved directions from output factors, ``(I - Q Q^T) B``."""
        kept = {}
        for path, (a, b) in factors.items():
            q = self._reserved.get(path)
            if q is not None:
                b = b.to(q)  # noqa: PLW2901 - the same factor, where the basis is
                along = q.T @ b
                # What is outside to rounding stays as it was, bit for bit.
                if along.norm() > _NOTHING * b.norm():
                    b = b - q @ along  # noqa: PLW2901
            kept[path] = (a, b)
        return kept

    def _write(self, slot: int, factors: Mapping[str, Factors], scale: float) -> None:
        with torch.no_grad():
            for path, site in self._sites.items():
                site.written()
                site.A[slot].zero_()
                site.B[slot].zero_()
                site.scale[slot] = scale
                if path in factors:
                    a, b = factors[path]
                    site.A[slot, : a.shape[0]] = a.to(site.A)
                    site.B[slot, :, : b.shape[1]] = b.to(site.B)
