"""Slot factors: low-rank factors of all sites of a model, written and read slot by slot."""

from collections.abc import Mapping

import torch

from bem.adapters.artifact import Factors
from bem.adapters.site import BemSite


class SlotFactors:
    """Factors in the slots of a model's sites.

    Args:
        sites: Sites by module path.

    Attributes:
        sites: Sites by module path.
    """

    def __init__(self, sites: Mapping[str, BemSite]) -> None:
        self.sites = dict(sites)
        self._dtype = torch.float32

    @torch.no_grad()
    def write(self, slot: int, factors: Mapping[str, Factors], scale: float) -> None:
        """Write an adapter's factors and its scale into a slot of every site.

        Args:
            slot: Index into the stacks of the sites.
            factors: ``{site path: (A [r, d_in], B [d_out, r])}``; other sites get zeros.
            scale: Factor s of the low-rank term.
        """
        for path, site in self.sites.items():
            site.invalidate(slot)
            site.scale[slot] = scale
            # A site that the adapter does not adapt gets zeros, whatever the slot held before.
            a, b = factors.get(path, (site.A[slot, :0], site.B[slot, :, :0]))
            rank = a.shape[0]
            site.A[slot, :rank], site.A[slot, rank:] = a.to(site.A), 0
            site.B[slot, :, :rank], site.B[slot, :, rank:] = b.to(site.B), 0

    @torch.no_grad()
    def read(self, slot: int, rank: int) -> dict[str, tuple[Factors, float]]:
        """Return the factors that a slot serves, as float32 copies, and their scale.

        Args:
            slot: Index into the stacks of the sites.
            rank: Number of leading ranks to read.
        """
        return {
            path: (
                (site.A[slot, :rank].float().clone(), site.B[slot, :, :rank].float().clone()),
                float(site.scale[slot]),
            )
            for path, site in self.sites.items()
        }

    def preallocate_concatenated(self, adapters: int, dtype: torch.dtype) -> None:
        """Allocate concatenated factors of ``adapters`` adapters at addresses that stay."""
        for site in self.sites.values():
            site.preallocate_concatenated(adapters, dtype)
        self._dtype = dtype

    def concatenate(self, used: tuple[int, ...]) -> None:
        """Put the factors of the slots ``used`` side by side in all sites, in that order."""
        for site in self.sites.values():
            site.concatenate(used, self._dtype)
