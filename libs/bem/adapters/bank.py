"""The bank: many registered adapters, the most recently used of them in the sites' slots."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bem.adapters.artifact import (
    Adapter,
    AdapterCard,
    Factors,
    read_adapter,
    read_adapter_card,
    read_factors,
)
from bem.adapters.folder import Stamp
from bem.adapters.site import BemSite, RowCodes, install_sites
from bem.backbone import Backbone
from bem.controller import Controller
from bem.errors import (
    AdapterNotFoundError,
    ArtifactFormatError,
    ArtifactTamperedError,
    SlotsFullError,
)

# Share of an output factor that is rounding.
_NOTHING = 1e-5


@dataclass(eq=False)
class LoadedAdapter:
    """One version of an adapter that requests may name.

    Attributes:
        name: What requests call it.
        version: Digest of its artifact.
        card: Its card.
        stamp: State of its files when they were checked.
        folder: Where its factors are read from when they come into a slot.
        controller: Sets its code.
        constant: Whether its controller sets the same code whatever it reads, as plain LoRA does.
        loaded_unix_s: When it was loaded, seconds since the epoch.
        slot: Index into the stacks of every site; None while it is not resident.
        leases: Requests that use it now.
    """

    name: str
    version: str
    card: AdapterCard
    stamp: Stamp
    folder: Path
    controller: Controller
    constant: bool
    loaded_unix_s: float = field(default_factory=time.time)
    slot: int | None = None
    leases: int = 0

    @property
    def rank(self) -> int:
        """Rank of its factors."""
        return self.card.rank


class AdapterBank:
    """Serves up to ``registered`` adapters through ``slots`` slots in the sites of one backbone.

    An adapter comes into a slot when a request needs it, in place of the one without requests that
    was used longest ago. A name that is loaded again becomes another version; requests in flight
    keep the version, and so the slot, that they began with. Not thread-safe: the engine's worker
    thread owns it.

    Args:
        backbone: Gets sites installed.
        layers: Decoder layers with sites.
        rank: Highest rank of an adapter.
        slots: Adapters that are resident at once.
        feature_layer: Decoder layer whose output the controllers read; below all sites.
        registered: Adapters that may be loaded.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int],
        rank: int,
        slots: int,
        feature_layer: int,
        registered: int = 1024,
    ) -> None:
        if feature_layer >= min(layers):
            raise ValueError(f"feature layer {feature_layer} is not below the sites {min(layers)}")
        self.rows = RowCodes()
        self.rank = rank
        self.slots = slots
        self.registered = registered
        self.feature_layer = feature_layer
        self.first_layer = min(layers)
        self.page_ins = 0
        self._backbone = backbone
        self._sites: dict[str, BemSite] = install_sites(
            backbone.model, layers=layers, rank=rank, slots=slots, rows=self.rows
        )
        self._join_dtype = torch.float32
        self._free = list(range(slots))
        self._reserved: dict[str, Tensor] = {}
        self._loaded: dict[str, LoadedAdapter] = {}
        # The one used longest ago comes first.
        self._resident: OrderedDict[int, LoadedAdapter] = OrderedDict()

    @classmethod
    def shaped_for(cls, backbone: Backbone, folder: Path, *, slots: int) -> "AdapterBank":
        """Return an empty bank with the sites, rank and feature layer of one adapter.

        Args:
            backbone: As of the class.
            folder: The adapter's artifact.
            slots: As of the class.

        Raises:
            ArtifactFormatError: Its card is missing or malformed.
        """
        card = read_adapter_card(folder)
        return cls(
            backbone,
            layers=card.layers,
            rank=card.rank,
            slots=slots,
            feature_layer=card.feature_layer,
        )

    def load(self, folder: Path) -> LoadedAdapter:
        """Load the adapter in ``folder``, replacing an older version of the same name.

        Raises:
            ArtifactFormatError: It does not fit the bank's sites, rank or feature layer.
            ArtifactTamperedError: Its tensors are not those of its card.
            BaseMismatchError: It belongs to another base model.
            SlotsFullError: As many adapters are registered as may be.
        """
        adapter = read_adapter(folder, base_digest=self._backbone.digest)
        self._check_fit(adapter)
        card = adapter.card
        if card.name not in self._loaded and len(self._loaded) >= self.registered:
            raise SlotsFullError(
                f"{len(self._loaded)} adapters are loaded, the limit; unload one first"
            )
        controller = Controller(self._backbone.model.config.hidden_size, card.rank)
        controller.load_state_dict(adapter.controller)
        controller.requires_grad_(requires_grad=False).to(self._backbone.model.device)
        constant = not (controller.code.weight.any() or controller.unsure.weight.any())
        loaded = LoadedAdapter(
            card.name, adapter.version, card, adapter.stamp, folder, controller, constant
        )
        self._retire(self._loaded.get(loaded.name))
        self._loaded[loaded.name] = loaded
        if self._free:
            self._page_in(loaded, adapter.factors)
        return loaded

    def reserve(self, bases: Mapping[str, Tensor]) -> None:
        """Keep the outputs of all adapters that come out of ``{site path: Q [d_out, k]}``.

        Raises:
            ValueError: Adapters are loaded already.
        """
        if self._loaded:
            raise ValueError(f"reserve before loading adapters; loaded: {sorted(self._loaded)}")
        self._reserved = {path: q.to(self.device).float() for path, q in bases.items()}

    def place(self, name: str, factors: Mapping[str, Factors], *, scale: float) -> int:
        """Write an adapter that is no adapter into a slot of its own, which never gets free.

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
            raise SlotsFullError(f"all {len(self._loaded)} slots hold adapters; unload one first")
        slot = self._free.pop(0)
        self._write(slot, factors, scale)
        return slot

    def join_places(self, dtype: torch.dtype) -> int:
        """Give sites room to join any adapters in use; return for how many. It never moves."""
        places = 2 * self.slots
        for site in self._sites.values():
            site.make_room(places, dtype)
        self._join_dtype = dtype
        return places

    def join(self, used: tuple[int, ...]) -> None:
        """Put the factors of the slots ``used`` side by side in all sites, in that order."""
        for site in self._sites.values():
            site.join(used, self._join_dtype)

    @property
    def device(self) -> torch.device:
        """Where the sites are."""
        found: torch.device = self._backbone.model.device
        return found

    def unload(self, name: str) -> None:
        """Offer ``name`` no longer.

        Raises:
            AdapterNotFoundError: It is not loaded.
        """
        loaded = self.find(name)
        del self._loaded[name]
        self._retire(loaded)

    def acquire(self, name: str) -> LoadedAdapter:
        """Lease the current version of ``name`` until ``release``; it is resident meanwhile.

        Raises:
            ArtifactFormatError: Its folder is gone or broken since it was loaded.
            ArtifactTamperedError: Its folder holds another version by now.
            AdapterNotFoundError: It is not loaded.
            SlotsFullError: Requests use all slots; a later try succeeds.
        """
        loaded = self.find(name)
        if loaded.slot is None:
            self._make_room(name)
            self._page_in(loaded, self._read_again(loaded))
        elif loaded.slot in self._resident:
            self._resident.move_to_end(loaded.slot)
        loaded.leases += 1
        return loaded

    def release(self, loaded: LoadedAdapter) -> None:
        """End one lease."""
        loaded.leases -= 1
        if loaded.leases == 0 and self._loaded.get(loaded.name) is not loaded:
            self._page_out(loaded)

    def adapters(self) -> list[LoadedAdapter]:
        """Return the current versions by name."""
        known = self._loaded.copy()  # at once: other threads read while adapters come and go
        return [known[name] for name in sorted(known)]

    def get(self, name: str) -> LoadedAdapter | None:
        """Return the current version of ``name``, None if it is not loaded."""
        return self._loaded.get(name)

    def find(self, name: str) -> LoadedAdapter:
        """Return the current version of ``name``.

        Raises:
            AdapterNotFoundError: It is not loaded.
        """
        if name not in self._loaded:
            raise AdapterNotFoundError(name, sorted(self._loaded))
        return self._loaded[name]

    def leases(self) -> int:
        """Return how many leases are held, of all versions."""
        return sum(loaded.leases for loaded in self._resident.values())

    def _retire(self, loaded: LoadedAdapter | None) -> None:
        if loaded and loaded.leases == 0:
            self._page_out(loaded)

    def _make_room(self, name: str) -> None:
        if self._free:
            return
        idle = next((one for one in self._resident.values() if one.leases == 0), None)
        if idle is None:
            raise SlotsFullError(
                f"adapter {name!r} is not resident and requests use all {self.slots} slots"
            )
        self._page_out(idle)

    def _read_again(self, loaded: LoadedAdapter) -> dict[str, Factors]:
        """Return an adapter's factors; files that were written since it was loaded are checked."""
        if factors := read_factors(loaded.folder, loaded.card, loaded.stamp):
            return factors
        adapter = read_adapter(loaded.folder, base_digest=self._backbone.digest)
        if adapter.version != loaded.version:
            raise ArtifactTamperedError(
                f"adapter {loaded.name!r} was loaded as version {loaded.version[:12]}, its folder "
                f"holds {adapter.version[:12]}; load it again"
            )
        loaded.stamp = adapter.stamp
        return adapter.factors

    def _page_in(self, loaded: LoadedAdapter, factors: Mapping[str, Factors]) -> None:
        loaded.slot = self._free.pop()
        self._resident[loaded.slot] = loaded
        self._write(loaded.slot, self._kept_out(factors), loaded.card.scale)
        self.page_ins += 1

    def _page_out(self, loaded: LoadedAdapter) -> None:
        if loaded.slot is not None:
            del self._resident[loaded.slot]
            self._free.append(loaded.slot)
            loaded.slot = None

    def _check_fit(self, adapter: Adapter) -> None:
        card = adapter.card
        if card.rank > self.rank or card.feature_layer != self.feature_layer:
            raise ArtifactFormatError(
                f"adapter {card.name!r} has rank {card.rank} and feature layer {card.feature_layer}; "
                f"the bank takes rank <= {self.rank} and feature layer {self.feature_layer}"
            )
        self._check_factors(card.name, adapter.factors)

    def _check_factors(self, name: str, factors: Mapping[str, Factors]) -> None:
        for path, (a, b) in factors.items():
            site = self._sites.get(path)
            if site is None:
                raise ArtifactFormatError(f"adapter {name!r}: {path} is no site of this bank")
            if a.shape[0] > self.rank:
                raise ArtifactFormatError(
                    f"adapter {name!r} has rank {a.shape[0]}; the bank takes rank <= {self.rank}"
                )
            if a.shape[1] != site.A.shape[2] or b.shape[0] != site.B.shape[1]:
                raise ArtifactFormatError(f"adapter {name!r}: {path} has the wrong width")

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
                site.written(slot)
                site.scale[slot] = scale
                a, b = factors.get(path, (site.A[slot, :0], site.B[slot, :, :0]))
                rank = a.shape[0]
                site.A[slot, :rank], site.A[slot, rank:] = a.to(site.A), 0
                site.B[slot, :, :rank], site.B[slot, :, rank:] = b.to(site.B), 0
