"""Row codes: adapters and gate vectors of each row of a batch, shared by the sites of a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class RowCodes:
    """Adapters and gate vectors of each batch row, shared by all sites of a model.

    Attributes:
        slots: ``[R, S]`` int64, slot of each of a row's S adapters; None when none is active.
        codes: ``[R, S, r]``, or ``[R, T, S, r]`` for codes that differ between tokens.
        site_factors: ``[S, R]``, or ``[S, R, T]`` for codes that differ between tokens: factor of
            each row's codes at each of the model's S sites; None for 1 everywhere. Compositions
            set it, because their trust region holds at each site.
        preset: ``[R, 1, U*r]`` codes over factors that every site has concatenated before, or
            None. CUDA graphs need it, because a replayed graph cannot choose factors.
        preset_factors: ``[S, R]`` factors of the preset codes; None for 1 everywhere.
        preset_linear: Whether sites without a place in ``preset_factors`` use the preset codes.
    """

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.codes: Tensor | None = None
        self.site_factors: Tensor | None = None
        self.preset: Tensor | None = None
        self.preset_factors: Tensor | None = None
        self.preset_linear = False
        self._concatenated: tuple[tuple[int, ...], Tensor] | None = None
        self._slot_order: list[int] = []

    def set(self, slots: Tensor, codes: Tensor, site_factors: Tensor | None = None) -> None:
        """Use ``slots [R, S]`` with ``codes [R, S, r]`` in the forward passes that follow.

        Args:
            slots: Slot of each of a row's S adapters.
            codes: Codes, or ``[R, T, S, r]`` if they differ between tokens.
            site_factors: Factors of the codes at each site, or None for 1 everywhere.

        Raises:
            ValueError: The shapes do not fit each other.
        """
        if codes.shape[0] != slots.shape[0] or codes.shape[-2] != slots.shape[1]:
            raise ValueError(f"codes {tuple(codes.shape)} do not fit slots {tuple(slots.shape)}")
        if site_factors is not None and site_factors.shape[1:] != codes.shape[:-2]:
            raise ValueError(
                f"site factors {tuple(site_factors.shape)} do not fit codes {tuple(codes.shape)}"
            )
        self.slots, self.codes, self._concatenated = slots, codes, None
        self.site_factors = site_factors

    def at_site(self, codes: Tensor, site: int) -> Tensor:
        """Multiply ``codes [R, 1 or T, ...]`` by the factors of one site; -1 has none."""
        if self.site_factors is None or site < 0:
            return codes
        factors = self.site_factors[site]  # [R] or [R, T]
        steps = factors.unsqueeze(1) if factors.dim() == 1 else factors
        return codes * steps.reshape(*steps.shape, *[1] * (codes.dim() - 2))

    def concatenated(self) -> tuple[tuple[int, ...], Tensor]:
        """Return the U slots in use, in the order of their factors, and the codes over all of them.

        A row's code is zero over the adapters that it does not use, so one matmul with the
        factors of all U adapters serves every row. A slot keeps its position while it is in use,
        so an adapter that joins or leaves the batch changes one position only.

        Returns:
            The slots, and codes ``[R, 1, U*r]``, or ``[R, T, U*r]`` if they differ between tokens.

        Raises:
            ValueError: No codes are set.
        """
        if self.slots is None or self.codes is None:
            raise ValueError("no codes are set; call set() first")
        if self._concatenated is None:
            slots = self.slots.tolist()
            used = sorted({slot for row in slots for slot in row})
            order = self._ordered(used) if len(used) > 1 else tuple(used)
            position_of = {slot: position for position, slot in enumerate(order)}
            positions = torch.tensor([[position_of[slot] for slot in row] for row in slots])
            codes = self.codes if self.codes.dim() == 4 else self.codes.unsqueeze(1)
            rows, steps, _, rank = codes.shape
            spread = codes.new_zeros(rows, steps, len(order), rank)
            index = positions.to(codes.device)[:, None, :, None].expand_as(codes)
            # Adding, not writing: padding entries of a row repeat a slot with a code of zero.
            self._concatenated = order, spread.scatter_add_(2, index, codes).flatten(2)
        return self._concatenated

    @contextmanager
    def use_preset(
        self, codes: Tensor, site_factors: Tensor | None = None, *, linear: bool = False
    ) -> Iterator[None]:
        """Make sites use ``codes [R, 1, U*r]`` with the factors they have concatenated.

        Args:
            codes: Codes of the rows.
            site_factors: ``[S, R]`` factors of the codes at each site, or None for 1 everywhere.
            linear: Whether sites that have no such factor use the codes.
        """
        self.preset, self.preset_factors, self.preset_linear = codes, site_factors, linear
        try:
            yield
        finally:
            self.preset = self.preset_factors = None
            self.preset_linear = False

    def _ordered(self, used: Sequence[int]) -> tuple[int, ...]:
        """Return an order of slots that has all of ``used`` and moves none that was there before.

        A new slot takes the position of one that is no longer used. The order may hold unused
        slots; it is dropped once more than half of it is unused.
        """
        if len(self._slot_order) > 2 * len(used):
            self._slot_order = []
        present = set(self._slot_order)
        free = [position for position, slot in enumerate(self._slot_order) if slot not in used]
        for slot in used:
            if slot in present:
                continue
            if free:
                self._slot_order[free.pop()] = slot
            else:
                self._slot_order.append(slot)
        return tuple(self._slot_order)

    def clear(self) -> None:
        """Make every site compute its frozen layer alone."""
        self.slots = self.codes = self.site_factors = None
