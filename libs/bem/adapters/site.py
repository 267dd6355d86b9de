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

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bem.adapters.row_codes import RowCodes
from bem.lazy_memory import LazyZeros

TARGET_MODULES = {"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}
"""Linear layers of a decoder layer that can become sites, and their module paths.

Neither of them produces keys or values, so a cached key or value of a layer never depends on a
code of the same layer.
"""
LINEAR_MODULES = {
    **{kind: f"self_attn.{kind}" for kind in ("q_proj", "k_proj", "v_proj", "qkv_proj")},
    **{kind: f"mlp.{kind}" for kind in ("gate_proj", "up_proj", "gate_up_proj")},
    **TARGET_MODULES,
}
"""All linear layers of a decoder layer in any model family, and their module paths.

Adapters with a constant code may adapt all of them, in any layer (``bem.adapters.linear_sites``).
"""

_RANKS_AT_ONCE = 16


class BemSite(nn.Module):
    """A frozen linear layer plus a gated low-rank term: ``y = W x + s B (code * (A x))``.

    This is LoRA (arXiv 2106.09685) with a diagonal code between its factors, so that
    ``dW = s B diag(code) A``. Adapters are stacked in slots, and each row uses its own, as in
    Punica (arXiv 2310.18547), here with two batched matmuls. On a CPU, a slot takes memory for the
    ranks that were written into it.

    Args:
        base: The frozen layer, ``d_in -> d_out``.
        rank: Highest rank r of a slot.
        slots: Number N of slots.
        row_codes: Adapters and codes of the batch rows, shared with other sites.
        index: Place of this site among those that ``RowCodes.site_factors`` has factors for; -1 if
            it has none for this site.
        dtype: Type of the factors; None for the type of the layer's weights.

    Attributes:
        A: ``[N, r, d_in]`` factors.
        B: ``[N, d_out, r]`` factors, stored rank by rank.
        scale: ``[N]`` factors of the low-rank terms.
        used_ranks: ``[N]`` int32, leading ranks of each slot that add anything; others are not
            read.
    """

    base: Any

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        slots: int,
        row_codes: RowCodes,
        index: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.base, self.index = base, index
        self.row_codes = row_codes
        like = base.weight.new_empty(0, dtype=dtype)
        self.A = nn.Parameter(LazyZeros((slots, rank, base.in_features), like).tensor, False)
        # B is transposed in memory, so that each rank is contiguous: compiled kernels read it so.
        up = LazyZeros((slots, rank, base.out_features), like).tensor.transpose(1, 2)
        self.B = nn.Parameter(up, False)
        self.scale = nn.Parameter(base.weight.new_ones(slots), False)
        self.used_ranks = torch.zeros(slots, dtype=torch.int32)
        self._written_ranks, self._used_ranks = [0] * slots, [0] * slots
        # Concatenated factors of several adapters, and the slot that each position holds.
        self._concatenated: tuple[Tensor, Tensor] | None = None
        self._slot_at: list[int | None] = []
        self._keeps_address = False

    @property
    def bias(self) -> Tensor | None:
        """Bias of the frozen layer; None without."""
        bias: Tensor | None = self.base.bias
        return bias

    @torch.no_grad()
    def write(self, slot: int, factors: tuple[Tensor, Tensor] | None, scale: float) -> None:
        """Write factors ``A [k, d_in]`` and ``B [d_out, k]`` of k <= r ranks into a slot.

        Args:
            slot: Index into the stacks.
            factors: Factors; None for none, whatever the slot held before.
            scale: Factor s of the low-rank term.
        """
        self._slot_at = [None if current == slot else current for current in self._slot_at]
        self.scale[slot] = scale
        rank, before = 0 if factors is None else factors[0].shape[0], self._written_ranks[slot]
        if factors is not None:
            a, b = factors
            if self.A.dtype == torch.float16:
                (a, down), (b, up) = _in_range_of_float16(a), _in_range_of_float16(b)
                self.scale[slot] *= down * up
            self.A[slot, :rank] = a.to(self.A)
            self.B[slot, :, :rank] = b.to(self.B)
        self.A[slot, rank:before] = 0
        self.B[slot, :, rank:before] = 0
        self._written_ranks[slot] = rank
        adding = self.B[slot, :, :rank].any(0).nonzero()
        self._used_ranks[slot] = int(adding[-1]) + 1 if len(adding) else 0
        self.used_ranks[slot] = self._used_ranks[slot]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [R, T, d_in]`` to ``[R, T, d_out]``; exactly the base when nothing is active."""
        return self.add_to(self.base(x), x)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """Return ``y [R, T, d_out]`` plus the low-rank terms of ``x``; y itself if there are none.

        Args:
            y: Outputs of the frozen layer; they are not changed.
            x: ``[R, T, d_in]`` inputs.
        """
        slots, codes = self.row_codes.slots, self.row_codes.codes
        preset = self.row_codes.preset
        if preset is not None:
            return self._add_preset(x, y, preset)
        if slots is None or codes is None:
            return y
        if not torch.is_grad_enabled():
            return self._add_concatenated(x, y)
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

    def _add_preset(self, x: Tensor, y: Tensor, preset: Tensor) -> Tensor:
        """Add the terms of the factors that were concatenated before, with ``preset`` codes."""
        if self.index < 0 and not self.row_codes.preset_linear:
            return y
        factors = self.row_codes.preset_factors
        down, up = self._leading_ranks(preset.shape[2])
        if factors is not None and self.index >= 0:
            preset = preset * factors[self.index][:, None, None]
        return self._add_low_rank(x, y, down, up, preset)

    def _add_concatenated(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the low-rank terms of all rows with two matmuls over the adapters in use."""
        used, codes = self.row_codes.concatenated()
        width = max(self._used_ranks[slot] for slot in used)
        if not width:
            return y
        # Rounded up: products of a cut adapter have the shape, and so the bits, of the whole one.
        width = min(-(-width // _RANKS_AT_ONCE) * _RANKS_AT_ONCE, self.A.shape[1])
        if self._keeps_address:
            width = self.A.shape[1]
        codes = self.row_codes.at_site(codes, self.index)
        codes = codes.unflatten(2, (len(used), -1))[..., :width].flatten(2)
        if len(used) == 1:
            # One adapter for all rows needs no copy of its factors.
            slot = used[0]
            down = self.A[slot, :width].to(x.dtype)
            up = self.B[slot, :, :width].T.to(x.dtype)
            codes = codes * self.scale[slot]
        else:
            down, up = self.concatenate(used, x.dtype, width)
        return self._add_low_rank(x, y, down, up, codes)

    @staticmethod
    def _add_low_rank(x: Tensor, y: Tensor, down: Tensor, up: Tensor, codes: Tensor) -> Tensor:
        low = nn.functional.linear(x, down) * codes.to(x.dtype)  # [R, T, U*r]
        return torch.addmm(y.flatten(0, 1), low.flatten(0, 1), up).view_as(y)

    def preallocate_concatenated(self, adapters: int, dtype: torch.dtype) -> None:
        """Allocate concatenated factors of up to ``adapters`` adapters at a fixed address."""
        self._allocate_concatenated(adapters, self.A.shape[1], dtype)
        self._keeps_address = True

    def _allocate_concatenated(self, adapters: int, width: int, dtype: torch.dtype) -> None:
        self._slot_at = [None] * adapters
        self._concatenated = (
            self.A.new_zeros(adapters * width, self.A.shape[2], dtype=dtype),
            self.B.new_zeros(adapters * width, self.B.shape[1], dtype=dtype),
        )

    def _leading_ranks(self, ranks: int) -> tuple[Tensor, Tensor]:
        if self._concatenated is None:
            raise RuntimeError("no factors are concatenated; call concatenate() first")
        return self._concatenated[0][:ranks], self._concatenated[1][:ranks]

    def concatenate(
        self, used: tuple[int, ...], dtype: torch.dtype, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return factors of the slots ``used`` side by side, ``[U*w, d_in]`` and ``[U*w, d_out]``.

        The second factor includes the scale. Only positions whose slot changed are copied.

        Args:
            used: Slots in the order of their factors.
            dtype: Type of the factors.
            width: Leading ranks w of each slot; None for all.
        """
        width = width or self.A.shape[1]
        if not self._holds(len(used), dtype, width):
            self._allocate_concatenated(len(used), width, dtype)
        down, up = self._leading_ranks(len(used) * width)
        for position, slot in enumerate(used):
            if self._slot_at[position] != slot:
                ranks = slice(position * width, (position + 1) * width)
                down[ranks] = self.A[slot, :width]
                up[ranks] = self.B[slot, :, :width].T * self.scale[slot]
                self._slot_at[position] = slot
        return down, up

    def _holds(self, adapters: int, dtype: torch.dtype, width: int) -> bool:
        """Return whether the concatenated factors have room for so many adapters of a width."""
        if self._concatenated is None or len(self._slot_at) < adapters:
            return False
        down = self._concatenated[0]
        return down.dtype == dtype and down.shape[0] == len(self._slot_at) * width


def _in_range_of_float16(factor: Tensor) -> tuple[Tensor, float]:
    """Return a factor times a power of two, with its largest value in [0.5, 1), and the inverse.

    Factors that are barely trained are too small for float16, whose steps below 6e-5 are constant.
    """
    exponent = int(torch.frexp(factor.abs().max().float()).exponent) if factor.numel() else 0
    return factor.float() * 2.0**-exponent, 2.0**exponent


def install_sites(
    model: nn.Module,
    *,
    layers: Iterable[int],
    kinds: Iterable[str] = tuple(TARGET_MODULES),
    rank: int,
    slots: int,
    row_codes: RowCodes,
    indexed: bool = True,
    dtype: torch.dtype | None = None,
) -> dict[str, BemSite]:
    """Replace linear layers of a Llama-like model by sites and return them by module path.

    Args:
        model: A causal language model whose decoder layers are ``model.layers``.
        layers: Indices of the decoder layers that get sites.
        kinds: Names of linear layers, of ``LINEAR_MODULES``.
        rank: Rank of every slot.
        slots: Number of slots.
        row_codes: Shared by all sites.
        indexed: Whether the sites have a place among the site factors.
        dtype: Type of the factors; None for that of the weights.

    Raises:
        ValueError: A layer has a site already.
    """
    sites: dict[str, BemSite] = {}
    for layer in layers:
        for kind in kinds:
            path = f"model.layers.{layer}.{LINEAR_MODULES[kind]}"
            parent = model.get_submodule(path.rpartition(".")[0])
            base = getattr(parent, kind)
            if isinstance(base, BemSite):
                raise ValueError(f"{path} already is a site")  # noqa: TRY004 - the model is wrong, not a type
            index = len(sites) if indexed else -1
            sites[path] = BemSite(
                base, rank=rank, slots=slots, row_codes=row_codes, index=index, dtype=dtype
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
