"""Slot factors: low-rank factors of all sites of a model, written and read slot by slot."""

from collections.abc import Mapping

import torch

from bem.adapters.artifact import Factors
from bem.adapters.row_codes import RowCodes
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
            site.write(slot, factors.get(path), scale)

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

    def concatenate(self, used: tuple[int, ...], row_codes: RowCodes) -> None:
        """Put the factors of the slots ``used`` side by side in all sites of one half.

        Args:
            used: Slots in the order of their factors.
            row_codes: Codes that the sites of the half read.
        """
        for site in self.sites.values():
            if site.row_codes is row_codes:
                site.concatenate(used, self._dtype)

    def is_used(self, row_codes: RowCodes) -> bool:
        """Return whether any site that reads ``row_codes`` adds something to one of their rows."""
        if row_codes.slots is None:
            return False
        slots = row_codes.slots.flatten().cpu()
        return any(
            bool(site.used_ranks[slots].any())
            for site in self.sites.values()
            if site.row_codes is row_codes
        )
