"""Adapter bank: loaded adapters, and the most recently used of them in GPU or CPU slots.

The bank separates two limits. Up to ``max_loaded`` adapters are loaded, which means that requests
may name them; a loaded adapter keeps only its card and its controller in memory. Up to ``slots``
of them are resident, which means that their factors are in the stacks of the sites. A request
leases the adapter that it names; a lease makes the adapter resident and keeps it there.

Example:
    Two slots, three loaded adapters ``a``, ``b`` and ``c``::

        load a, b       a -> slot 1, b -> slot 0      free slots are filled at once
        load c          c is loaded, not resident     no slot is free
        acquire a       a is leased and becomes the most recently used
        acquire c       b has no lease: b is evicted, c takes slot 0
        acquire b       SlotsFullError                both slots are leased; a later try succeeds
        load a again    new version a', not resident; requests in flight keep a in slot 1
        release a       a has no lease and is no longer current: slot 1 becomes free
        acquire a       a' is read from its folder into slot 1
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bem.adapters.artifact import Adapter, Factors, read_adapter, read_adapter_card
from bem.adapters.fit import (
    bank_layers,
    check_controller,
    check_factors,
    check_fit,
    check_name,
)
from bem.adapters.linear_sites import install_linear_sites
from bem.adapters.loaded import LoadedAdapter, Projection
from bem.adapters.projection import is_outside, project_outside
from bem.adapters.row_codes import RowCodes
from bem.adapters.site import install_sites
from bem.adapters.slot_factors import SlotFactors
from bem.backbone import Backbone
from bem.controller import Controller
from bem.errors import AdapterNotFoundError, SlotsFullError


class AdapterBank:
    """Loaded adapters of one backbone, paged through the slots of its sites by LRU.

    An adapter becomes resident when a request needs it and evicts the least recently used adapter
    that has no lease. Loading a name again makes a new version; requests in flight keep the
    version, and therefore the slot, that they started with.

    The bank is not thread-safe: the engine's worker thread owns it. Only ``adapters`` and ``get``
    may be called from other threads.

    Args:
        backbone: Base model; sites are installed in it.
        layers: Decoder layers with sites.
        rank: Highest rank of an adapter.
        slots: Number of adapters that are resident at once.
        feature_layer: Decoder layer whose output the controllers read; below all sites.
        max_loaded: Number of adapters that may be loaded.
        linear: Whether adapters with a constant code may adapt every linear layer.

    Raises:
        ValueError: The feature layer is not below all sites.

    Attributes:
        factors: Factors in the slots of the sites that controllers drive.
        linear: Factors in the slots of the sites in all other linear layers, if there are any.
        row_codes: Codes of the passes through the upper half.
        lower_codes: Codes of the passes through the lower half.
        pageable_slots: Slots that hold no pinned factors.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int],
        rank: int,
        slots: int,
        feature_layer: int,
        max_loaded: int = 1024,
        linear: bool = False,
    ) -> None:
        if feature_layer >= min(layers):
            raise ValueError(f"feature layer {feature_layer} is not below the sites {min(layers)}")
        self.row_codes, self.lower_codes = RowCodes(), RowCodes()
        self.rank = rank
        self.slots = self.pageable_slots = slots
        self.max_loaded = max_loaded
        self.feature_layer = feature_layer
        self.first_layer = min(layers)
        self.page_ins = 0
        self._backbone = backbone
        sites = install_sites(
            backbone.model, layers=layers, rank=rank, slots=slots, row_codes=self.row_codes
        )
        self.factors = SlotFactors(sites)
        codes = self.lower_codes, self.row_codes
        self.linear = SlotFactors(
            install_linear_sites(backbone, sites, codes, rank=rank, slots=slots) if linear else {}
        )
        self._free_slots = list(range(slots))
        self._reserved: dict[str, Tensor] = {}
        self._loaded: dict[str, LoadedAdapter] = {}
        # Least recently used first. It holds retired versions too, as long as they have leases.
        self._resident: OrderedDict[int, LoadedAdapter] = OrderedDict()
        self._variants: dict[tuple[str, str], LoadedAdapter] = {}

    @classmethod
    def for_artifact(cls, backbone: Backbone, folder: Path, *, slots: int) -> "AdapterBank":
        """Return an empty bank with the layers, rank and feature layer of one adapter.

        Args:
            backbone: Base model; sites are installed in it.
            folder: Folder of the adapter's artifact.
            slots: Number of adapters that are resident at once.

        Raises:
            ArtifactFormatError: The card is missing or malformed.
        """
        card = read_adapter_card(folder)
        layers, feature_layer = bank_layers(card, len(backbone.layers))
        return cls(
            backbone,
            layers=layers,
            rank=card.rank,
            slots=slots,
            feature_layer=feature_layer,
            linear=True,
        )

    def load(self, folder: Path, *, name: str | None = None) -> LoadedAdapter:
        """Load the adapter in ``folder``, replacing an older version of the same name.

        Everything in the folder is checked before the adapter is offered, so that nothing in it
        can fail or overflow later.

        Args:
            folder: Folder of the artifact.
            name: Name that its card must state; None takes the card's.

        Raises:
            ArtifactFormatError: The adapter does not fit the bank's sites, rank or feature layer,
                or has another name or the base model's.
            ArtifactTamperedError: The card or the tensors do not have the hash on the card.
            BaseMismatchError: The adapter belongs to another base model.
            SlotsFullError: ``max_loaded`` adapters are loaded.
        """
        adapter = read_adapter(folder, base_digest=self._backbone.digest)
        card = adapter.card
        check_name(card.name, folder_name=name, base_name=self._backbone.name)
        check_controller(adapter, self._backbone.model.config.hidden_size)
        controller = self._controller(adapter)
        beyond = check_fit(
            adapter,
            constant_code=controller.is_constant(),
            rank=self.rank,
            feature_layer=self.feature_layer,
            driven=self.factors.sites,
            linear=self.linear.sites,
        )
        if card.name not in self._loaded and len(self._loaded) >= self.max_loaded:
            raise SlotsFullError(
                f"{len(self._loaded)} adapters are loaded, the limit; unload one first"
            )
        loaded = LoadedAdapter(
            name=card.name,
            version=adapter.version,
            card=card,
            stamp=adapter.stamp,
            folder=folder,
            controller=controller,
            constant_code=controller.is_constant(),
            projection=self._projection(adapter),
            adapts_lower=any(self._is_lower(path) for path in beyond),
            composable=not beyond,
        )
        # The old version is retired before the new one takes a slot, so that its slot can be
        # reused at once if no request leases it.
        self._retire(self._loaded.get(loaded.name))
        self._loaded[loaded.name] = loaded
        # Loading fills free slots but never evicts: an adapter that is in use is worth more than
        # one that no request has named yet.
        if self._free_slots:
            self._page_in(loaded, adapter.factors)
        return loaded

    def reserve_subspace(self, bases: Mapping[str, Tensor]) -> None:
        """Keep the outputs of all adapters out of ``{site path: Q [d_out, k]}``.

        Raises:
            ValueError: Adapters are loaded already; their factors would stay unprojected.
        """
        if self._loaded:
            raise ValueError(f"reserve before loading adapters; loaded: {sorted(self._loaded)}")
        self._reserved = {path: q.to(self.device).float() for path, q in bases.items()}

    def pin(self, label: str, factors: Mapping[str, Factors], *, scale: float) -> int:
        """Write factors into a slot of their own that is never evicted, and return the slot.

        The safety adapter is pinned: requests cannot name it, and it writes inside the reserved
        subspace, so its factors are not projected.

        Args:
            label: Name in error messages.
            factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
            scale: Factor s of the low-rank term.

        Raises:
            ArtifactFormatError: The factors do not fit the bank's sites or rank.
            SlotsFullError: No slot is free.
        """
        check_factors(label, factors, self.factors.sites, self.rank)
        if not self._free_slots:
            raise SlotsFullError(f"all {len(self._loaded)} slots hold adapters; unload one first")
        slot = self._free_slots.pop(0)
        self.pageable_slots -= 1
        self.factors.write(slot, factors, scale)
        return slot

    def preallocate_concatenated(self, dtype: torch.dtype) -> int:
        """Allocate concatenated factors for any adapters in use, at addresses that never change.

        Returns:
            The number of adapters that fit. It is twice the number of slots, because the order of
            adapters may keep unused positions until more than half of them are unused.
        """
        adapters = 2 * self.slots
        self.factors.preallocate_concatenated(adapters, dtype)
        self.linear.preallocate_concatenated(adapters, dtype)
        return adapters

    @property
    def device(self) -> torch.device:
        """Device of the sites."""
        device: torch.device = self._backbone.model.device
        return device

    def unload(self, name: str) -> None:
        """Stop offering ``name``; requests in flight keep their version.

        Raises:
            AdapterNotFoundError: The adapter is not loaded.
        """
        loaded = self.find(name)
        del self._loaded[name]
        self._retire(loaded)

    def acquire(self, name: str) -> LoadedAdapter:
        """Lease the current version of ``name`` until ``release``; it is resident meanwhile.

        Raises:
            ArtifactFormatError: The folder was removed or broken after the adapter was loaded.
            ArtifactTamperedError: The folder holds another version now.
            AdapterNotFoundError: The adapter is not loaded.
            SlotsFullError: All slots are leased; a later try succeeds.
        """
        loaded = self.find(name)
        if loaded.slot is None:
            self._evict_if_full(name)
            self._page_in(loaded, loaded.read_factors(self._backbone.digest))
        return self._lease(loaded)

    def acquire_variant(self, origin: LoadedAdapter, key: str) -> LoadedAdapter | None:
        """Lease a resident variant of an adapter until ``release``; None if there is none.

        Args:
            origin: Adapter that the variant is of.
            key: Text that tells the variants of one version apart.
        """
        variant = self._variants.get((origin.version, key))
        return None if variant is None else self._lease(variant)

    def exchange(
        self, origin: LoadedAdapter, key: str, factors: Callable[[], Mapping[str, Factors]]
    ) -> LoadedAdapter:
        """Exchange a lease for one of a new variant of the same adapter with other factors.

        A variant has the card and the controller of ``origin`` and a slot of its own, and it is
        paged as all adapters are. The lease never needs two slots at once.

        Args:
            origin: Leased adapter; its lease ends.
            key: Text that tells the variants of one version apart.
            factors: Returns the variant's factors, ``{site path: (A [r, d_in], B [d_out, r])}``.

        Raises:
            SlotsFullError: All slots are leased; ``origin`` keeps its lease.
        """
        made = factors()  # while the slot of the origin may be read
        origin.leases -= 1
        try:
            self._evict_if_full(origin.name)
        finally:
            origin.leases += 1
        variant = replace(origin, slot=None, leases=0)
        self._variants[origin.version, key] = variant
        self._write_in(variant, made)
        self.release(origin)
        return self._lease(variant)

    def release(self, loaded: LoadedAdapter) -> None:
        """End one lease; a version that was replaced or unloaded leaves its slot with the last."""
        loaded.leases -= 1
        # A current version stays resident without leases: the next request finds it there.
        if loaded.leases == 0 and not self._is_current(loaded):
            self._page_out(loaded)

    def adapters(self) -> list[LoadedAdapter]:
        """Return the current versions, sorted by name."""
        # dict.copy is atomic under the GIL, so other threads may list while the worker loads.
        loaded = self._loaded.copy()
        return [loaded[name] for name in sorted(loaded)]

    def get(self, name: str) -> LoadedAdapter | None:
        """Return the current version of ``name``; None if it is not loaded."""
        return self._loaded.get(name)

    def find(self, name: str) -> LoadedAdapter:
        """Return the current version of ``name``.

        Raises:
            AdapterNotFoundError: The adapter is not loaded.
        """
        if name not in self._loaded:
            raise AdapterNotFoundError(name, sorted(self._loaded))
        return self._loaded[name]

    def leases(self) -> int:
        """Return the number of leases on all versions."""
        return sum(loaded.leases for loaded in self._resident.values())

    def _controller(self, adapter: Adapter) -> Controller:
        card = adapter.card
        made = Controller(
            self._backbone.model.config.hidden_size, card.rank, active=card.active_ranks
        )
        made.load_state_dict(adapter.controller)
        return made.requires_grad_(requires_grad=False).to(self._backbone.model.device)

    def _lease(self, loaded: LoadedAdapter) -> LoadedAdapter:
        if loaded.slot is not None and loaded.slot in self._resident:
            self._resident.move_to_end(loaded.slot)
        loaded.leases += 1
        return loaded

    def _is_current(self, loaded: LoadedAdapter) -> bool:
        current = self._loaded.get(loaded.name)
        if loaded in self._variants.values():
            return current is not None and current.version == loaded.version
        return current is loaded

    def _retire(self, loaded: LoadedAdapter | None) -> None:
        # With leases the version stays resident; the last release pages it out.
        if loaded and loaded.leases == 0:
            self._page_out(loaded)

    def _evict_if_full(self, name: str) -> None:
        if self._free_slots:
            return
        victim = next((one for one in self._resident.values() if one.leases == 0), None)
        if victim is None:
            raise SlotsFullError(
                f"adapter {name!r} is not resident and requests use all {self.slots} slots"
            )
        self._page_out(victim)

    def _page_in(self, loaded: LoadedAdapter, factors: Mapping[str, Factors]) -> None:
        reserved = {} if loaded.card.exact else self._reserved
        self._write_in(loaded, project_outside(factors, reserved))

    def _write_in(self, loaded: LoadedAdapter, factors: Mapping[str, Factors]) -> None:
        loaded.slot = self._free_slots.pop()
        self._resident[loaded.slot] = loaded
        for stacks in (self.factors, self.linear):
            stacks.write(loaded.slot, factors, loaded.card.scale)
        self.page_ins += 1

    def _page_out(self, loaded: LoadedAdapter) -> None:
        # The factors stay in the stacks until the next page-in overwrites them: no row names the
        # slot any more, so nothing reads them.
        if loaded.slot is not None:
            del self._resident[loaded.slot]
            self._free_slots.append(loaded.slot)
            loaded.slot = None
        self._variants = {key: one for key, one in self._variants.items() if one is not loaded}

    def _is_lower(self, path: str) -> bool:
        return self.linear.sites[path].row_codes is self.lower_codes

    def _projection(self, adapter: Adapter) -> Projection:
        if is_outside(adapter.factors, self._reserved):
            return "none"
        return "exact" if adapter.card.exact else "applied"
