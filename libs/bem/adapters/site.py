"""BEM sites: frozen linear layers with stacked low-rank adapters, gated per batch row.

A site computes ``y = W x + s B (code * (A x))``. The ``code`` is the gate vector over the ranks of
one adapter; a controller sets it for each request. This module also merges the adapters that a
batch uses, so that two matmuls serve all rows.

Example:
    Rank 2, four slots. Row 0 of a batch uses slot 3, row 1 uses slots 3 and 1::

        slots = [[3, 3], [3, 1]]            codes = [[[1, 1], [0, 0]], [[1, 1], [.5, .5]]]

    (Row 0 has one adapter only, so its second entry has a code of zero.) The distinct slots are
    ``(1, 3)``; their factors lie side by side in ``A_cat [2 * 2, d_in]`` and ``B_cat``, and each
    row has one code over all four ranks::

        row 0: [0, 0, 1, 1]                 row 1: [.5, .5, 1, 1]

    One matmul with ``A_cat``, one product with these codes and one matmul with ``B_cat`` give the
    low-rank terms of both rows. If slot 2 takes the place of slot 1 in the next batch, the order
    becomes ``(2, 3)``: slot 3 keeps its position, and only the factors of slot 2 are copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TARGET_MODULES = {"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}
"""Linear layers of a decoder layer that can become sites, and their module paths.

Neither of them produces keys or values, so a cached key or value of a layer never depends on a
code of the same layer.
"""


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
    """

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.codes: Tensor | None = None
        self.site_factors: Tensor | None = None
        self.preset: Tensor | None = None
        self.preset_factors: Tensor | None = None
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
        """Multiply ``codes [R, 1 or T, ...]`` by the factors of one site."""
        if self.site_factors is None:
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
    def use_preset(self, codes: Tensor, site_factors: Tensor | None = None) -> Iterator[None]:
        """Make sites use ``codes [R, 1, U*r]`` with the factors they have concatenated.

        Args:
            codes: Codes of the rows.
            site_factors: ``[S, R]`` factors of the codes at each site, or None for 1 everywhere.
        """
        self.preset, self.preset_factors = codes, site_factors
        try:
            yield
        finally:
            self.preset = self.preset_factors = None

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


class BemSite(nn.Module):
    """A frozen linear layer plus a gated low-rank term: ``y = W x + s B (code * (A x))``.

    This is LoRA (arXiv 2106.09685) with a diagonal code between its factors, so that
    ``dW = s B diag(code) A``. Adapters are stacked in slots, and each row uses its own, as in
    Punica (arXiv 2310.18547), here with two batched matmuls.

    Args:
        base: The frozen layer, ``d_in -> d_out``.
        rank: Rank r of every slot; an adapter of lower rank is padded with zeros.
        slots: Number N of slots.
        row_codes: Adapters and codes of the batch rows, shared with the other sites.
        index: Place of this site among the sites of the model.
    """

    base: Any

    def __init__(
        self, base: nn.Linear, *, rank: int, slots: int, row_codes: RowCodes, index: int = 0
    ) -> None:
        super().__init__()
        self.base, self.index = base, index
        self.row_codes = row_codes
        self.A = nn.Parameter(base.weight.new_zeros(slots, rank, base.in_features), False)
        # B is transposed in memory, so that each rank is contiguous: compiled kernels read it so.
        up = base.weight.new_zeros(slots, rank, base.out_features).transpose(1, 2)
        self.B = nn.Parameter(up, False)
        self.scale = nn.Parameter(base.weight.new_ones(slots), False)
        # Concatenated factors of several adapters, and the slot that each position holds.
        self._concatenated: tuple[Tensor, Tensor] | None = None
        self._slot_at: list[int | None] = []

    def invalidate(self, slot: int) -> None:
        """Drop the concatenated copy of ``slot``, whose factors are about to change."""
        self._slot_at = [None if current == slot else current for current in self._slot_at]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [R, T, d_in]`` to ``[R, T, d_out]``; exactly the base when nothing is active."""
        y: Tensor = self.base(x)
        slots, codes = self.row_codes.slots, self.row_codes.codes
        preset = self.row_codes.preset
        if preset is not None:
            factors = self.row_codes.preset_factors
            down, up = self._leading_ranks(preset.shape[2])
            if factors is not None:
                preset = preset * factors[self.index][:, None, None]
            return self._add_low_rank(x, y, down, up, preset)
        if slots is None or codes is None:
            return y
        if not torch.is_grad_enabled():
            return self._forward_concatenated(x, y)
        # Training keeps the factors in float32 beside a bfloat16 base.
        a = self.A[slots].to(x.dtype)  # [R, S, r, d_in]
        b = self.B[slots].to(x.dtype)  # [R, S, d_out, r]
        code = codes if codes.dim() == 4 else codes.unsqueeze(1)  # [R, 1 or T, S, r]
        code = self.row_codes.at_site(code, self.index)
        code = (code * self.scale[slots][:, None, :, None]).to(x.dtype)
        low = torch.einsum("rti,rski->rtsk", x, a) * code  # [R, T, S, r]
        rows, steps, adapters, rank = low.shape
        up = b.permute(0, 1, 3, 2).reshape(rows, adapters * rank, -1)  # [R, S*r, d_out]
        return y + low.reshape(rows, steps, adapters * rank) @ up

    def _forward_concatenated(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the low-rank terms of all rows with two matmuls over the adapters in use."""
        used, codes = self.row_codes.concatenated()
        codes = self.row_codes.at_site(codes, self.index)
        if len(used) == 1:
            # One adapter for all rows needs no copy of its factors.
            slot = used[0]
            down, up = self.A[slot].to(x.dtype), self.B[slot].T.to(x.dtype)
            codes = codes * self.scale[slot]
        else:
            down, up = self.concatenate(used, x.dtype)
        return self._add_low_rank(x, y, down, up, codes)

    @staticmethod
    def _add_low_rank(x: Tensor, y: Tensor, down: Tensor, up: Tensor, codes: Tensor) -> Tensor:
        low = nn.functional.linear(x, down) * codes.to(x.dtype)  # [R, T, U*r]
        return torch.addmm(y.flatten(0, 1), low.flatten(0, 1), up).view_as(y)

    def preallocate_concatenated(self, adapters: int, dtype: torch.dtype) -> None:
        """Allocate concatenated factors of up to ``adapters`` adapters at a fixed address."""
        rank = self.A.shape[1]
        self._slot_at = [None] * adapters
        self._concatenated = (
            self.A.new_zeros(adapters * rank, self.A.shape[2], dtype=dtype),
            self.B.new_zeros(adapters * rank, self.B.shape[1], dtype=dtype),
        )

    def _leading_ranks(self, ranks: int) -> tuple[Tensor, Tensor]:
        if self._concatenated is None:
            raise RuntimeError("no factors are concatenated; call concatenate() first")
        return self._concatenated[0][:ranks], self._concatenated[1][:ranks]

    def concatenate(self, used: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return factors of the slots ``used`` side by side, ``[U*r, d_in]`` and ``[U*r, d_out]``.

        The second factor includes the scale. Only positions whose slot changed are copied.
        """
        rank = self.A.shape[1]
        buffers = self._concatenated
        if buffers is None or len(self._slot_at) < len(used) or buffers[0].dtype != dtype:
            self.preallocate_concatenated(len(used), dtype)
        down, up = self._leading_ranks(len(used) * rank)
        for position, slot in enumerate(used):
            if self._slot_at[position] != slot:
                ranks = slice(position * rank, (position + 1) * rank)
                down[ranks], up[ranks] = self.A[slot], self.B[slot].T * self.scale[slot]
                self._slot_at[position] = slot
        return down, up


def install_sites(
    model: nn.Module,
    *,
    layers: Iterable[int],
    kinds: Iterable[str] = tuple(TARGET_MODULES),
    rank: int,
    slots: int,
    row_codes: RowCodes,
) -> dict[str, BemSite]:
    """Replace linear layers of a Llama-like model by sites and return them by module path.

    Args:
        model: A causal language model whose decoder layers are ``model.layers``.
        layers: Indices of the decoder layers that get sites.
        kinds: Target modules, ``o_proj``, ``down_proj`` or both.
        rank: Rank of every slot.
        slots: Number of slots.
        row_codes: Shared by all sites.

    Raises:
        ValueError: A layer has a site already.
    """
    sites: dict[str, BemSite] = {}
    for layer in layers:
        for kind in kinds:
            path = f"model.layers.{layer}.{TARGET_MODULES[kind]}"
            parent = model.get_submodule(path.rpartition(".")[0])
            base = getattr(parent, kind)
            if isinstance(base, BemSite):
                raise ValueError(f"{path} already is a site")  # noqa: TRY004 - the model is wrong, not a type
            sites[path] = BemSite(
                base, rank=rank, slots=slots, row_codes=row_codes, index=len(sites)
            )
            setattr(parent, kind, sites[path])
    return sites


def default_layers(count: int) -> tuple[int, int]:
    """Return lowest layer with sites and feature layer for a model of ``count`` layers.

    Sites are in the upper half, and controllers read the output of about a quarter of the layers;
    both are 0 for a model of one layer, which has no room for sites.
    """
    first = count // 2
    return first, max(0, min(round(count / 4), first - 1))
