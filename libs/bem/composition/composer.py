"""Composer: several loaded adapters in one request, projected and within a trust region.

The first adapter of a composition keeps its factors. The output factors of each further one are
projected outside the directions of those before it, and the projected factors take a slot of the
bank as an adapter does. The trust region depends on the codes (gate vectors), which change along a
sequence: it is evaluated for each new code from Gram products that are computed once.

Example: ``a`` and ``b`` of rank 16 with the safety adapter of rank 8 at 30 sites. The composition
leases ``a``'s slot and a slot with ``b``'s projected factors, and keeps Gram products
``[30, 40, 40]``. A code of 32 gates and a safety strength give 30 factors, one for each site, that
the codes of ``a`` and ``b`` are multiplied by there.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bem.adapters.artifact import Factors
from bem.adapters.bank import AdapterBank
from bem.adapters.loaded import LoadedAdapter
from bem.composition.compose import compose
from bem.composition.subspaces import successive_slices
from bem.trust_region import LowRankDelta, check_radius, gram_product, largest_factor

MAX_ADAPTERS = 4
# Gram products that are kept: 30 sites and a total rank of 40 take 0.4 MB.
_KEPT_PRODUCTS = 64


@dataclass(frozen=True)
class CompositionSettings:
    """How the adapters of one request are composed.

    Attributes:
        projection: ``orthogonal`` projects each adapter outside those before it; ``none`` adds the
            updates as they are.
        tau: Largest Frobenius norm of the summed update of a site; infinity bounds nothing.
        max_adapters: Number of adapters in one request.

    Raises:
        ValueError: ``tau`` is not positive.
    """

    projection: Literal["orthogonal", "none"] = "orthogonal"
    tau: float = math.inf
    max_adapters: int = MAX_ADAPTERS

    def __post_init__(self) -> None:
        check_radius(self.tau)

    @property
    def identity(self) -> str:
        """Text that is equal for settings that compose alike; part of every block key."""
        return f"{self.projection}/{self.tau!r}"


@dataclass(frozen=True, eq=False)
class ComposedAdapters:
    """Adapters that one request has leased together.

    Attributes:
        members: Adapters in order; their slots hold projected factors.
        version: SHA-256 over the settings and the versions of the members, hexadecimal.
        products: Gram products of the sites, ``[S, R, R]`` float64; R is the rank of all members
            and of the safety adapter together.
    """

    members: tuple[LoadedAdapter, ...]
    version: str
    products: Tensor


class Composer:
    """Composes adapters of a bank.

    Args:
        bank: Bank of the adapters.
        settings: How they are composed.
        safety: Slot and rank of the safety adapter; None without one. Its update counts in the
            norm and is never scaled.
    """

    def __init__(
        self, bank: AdapterBank, settings: CompositionSettings, safety: tuple[int, int] | None
    ) -> None:
        self.settings = settings
        self._bank, self._safety = bank, safety
        self._products: OrderedDict[str, Tensor] = OrderedDict()

    def acquire(self, names: Sequence[str]) -> ComposedAdapters:
        """Lease the current versions of two or more adapters until ``release``.

        Args:
            names: Names of the adapters in the order of precedence.

        Raises:
            AdapterNotFoundError: An adapter is not loaded.
            ArtifactFormatError: The folder of one was removed or broken after it was loaded.
            ArtifactTamperedError: The folder of one holds another version now.
            SlotsFullError: All slots are leased; a later try succeeds.
        """
        found = [self._bank.find(name) for name in names]
        version = _digest(self.settings.identity, *(one.version for one in found))
        leased: list[LoadedAdapter] = []
        try:
            for one in found:
                leased.append(self._lease(leased, one))
            products = self._gram_products(version, leased)
        except BaseException:
            for one in leased:
                self._bank.release(one)
            raise
        return ComposedAdapters(tuple(leased), version, products)

    def release(self, composed: ComposedAdapters) -> None:
        """End the leases of a composition."""
        for one in composed.members:
            self._bank.release(one)

    def site_factors(
        self, composed: ComposedAdapters, codes: Sequence[Tensor], safety_strength: float
    ) -> Tensor:
        """Return the factors of the members' codes that keep every site in the trust region.

        Args:
            composed: Composition whose members are leased.
            codes: Code ``[r]`` of each member, multiplied by its scale.
            safety_strength: Factor of the safety adapter's code.

        Returns:
            One factor in [0, 1] for each site, ``[S]`` float64 on the CPU.
        """
        gates = torch.cat([code.detach().double().cpu() for code in codes])
        rank = composed.products.shape[-1]
        scaled = torch.zeros(rank, dtype=torch.float64)
        scaled[: len(gates)] = gates
        unscaled = torch.zeros_like(scaled)
        unscaled[len(gates) :] = safety_strength
        return largest_factor(composed.products, scaled, unscaled, self.settings.tau)

    def _lease(self, before: Sequence[LoadedAdapter], adapter: LoadedAdapter) -> LoadedAdapter:
        """Lease an adapter with factors outside the leased ones ``before`` it."""
        # An adapter whose card asks for exact factors is served as it is, here as elsewhere.
        if not before or self.settings.projection == "none" or adapter.card.exact:
            return self._bank.acquire(adapter.name)
        key = _digest("outside", *(one.version for one in before))
        if variant := self._bank.acquire_variant(adapter, key):
            return variant
        origin = self._bank.acquire(adapter.name)
        try:
            return self._bank.exchange(origin, key, lambda: self._project_last([*before, origin]))
        except BaseException:
            self._bank.release(origin)
            raise

    def _project_last(self, members: Sequence[LoadedAdapter]) -> dict[str, Factors]:
        """Return the factors of the last member outside the directions of those before it."""
        served = [self._deltas(one.slot, one.rank) for one in members]
        last = str(len(members) - 1)
        factors = {}
        for path in self._bank.factors.sites:
            deltas = {str(place): one[path] for place, one in enumerate(served)}
            slices = successive_slices({name: delta.b for name, delta in deltas.items()})
            composed, _ = compose(deltas, slices, math.inf)
            factors[path] = composed[last].a, composed[last].b
        return factors

    def _gram_products(self, version: str, members: Sequence[LoadedAdapter]) -> Tensor:
        if version in self._products:
            self._products.move_to_end(version)
            return self._products[version]
        served = [self._deltas(one.slot, one.rank) for one in members]
        if self._safety:
            served.append(self._deltas(*self._safety))
        products = torch.stack(
            [gram_product([one[path] for one in served]) for path in self._bank.factors.sites]
        )
        self._products[version] = products
        while len(self._products) > _KEPT_PRODUCTS:
            self._products.popitem(last=False)
        return products

    def _deltas(self, slot: int | None, rank: int) -> dict[str, LowRankDelta]:
        """Return the updates that a slot serves at a code of one."""
        if slot is None:
            raise ValueError("slot: the adapter is not resident; acquire it first")
        return {
            path: LowRankDelta(a.cpu(), b.cpu(), torch.ones(rank), scale)
            for path, ((a, b), scale) in self._bank.factors.read(slot, rank).items()
        }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
