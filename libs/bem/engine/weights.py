"""How frozen matrices lie in memory and are multiplied: as loaded, or in 8 or 4 bits.

``int8``: one scale an output, products by VNNI. Each row of inputs is scaled by its largest
value, so that no row depends on another; where inputs have outliers they are given as two
8-bit halves, which is as good as 16 bits, and without VNNI always as two of 7 bits.
``int4``: scale and least value for each 32 inputs. That is what Q4_1 files hold, so that such a
file's values are found again but for the rounding of scales to bfloat16. Batches of more than a
few rows go through ``int8``, which lies beside it.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from bem.adapters.site import BemSite
from bem.backbone import WeightFormat
from bem.engine.native.library import BITS, Library, PackedLinear
from bem.errors import UnsupportedWeightsError

GROUP = 32
FEW_ROWS = 8
_SMALLEST = 1e-12


class FrozenLinear(nn.Module):
    """A frozen matrix without bias, ``d_in -> d_out``, as it was loaded.

    Args:
        weight: ``[d_out, d_in]``.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.held_bytes = weight.numel() * weight.element_size()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``."""
        return f.linear(x, self.weight)


class EightBitLinear(nn.Module):
    """The same in 8 bits: ``y = s W8 x8``, one scale an output and one a row of inputs.

    Args:
        weight: ``[d_out, d_in]``, only read.
        halves: Give inputs in two halves, twice the work; without VNNI they always are.
    """

    def __init__(self, weight: Tensor, *, halves: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Without VNNI, products of 8 by 8 bits are summed in pairs of 16 bits, which overflow
        # beyond 7 bits of inputs; 7 bits alone would cost a model twice what 8 bits do.
        vnni = bool(torch.cpu.get_capabilities().get("avx512_vnni"))
        self._levels, self._halves = 127 if vnni else 63, halves or not vnni
        scales = weight.float().abs().amax(1).clamp_min(_SMALLEST).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():
            # This release has no other way to these kernels.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            stored = torch.quantize_per_channel(weight.float(), scales, zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(stored, None)
        self.held_bytes = weight.numel() + 4 * len(scales)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``, of the same type."""
        rows = x.reshape(-1, self.in_features)
        size = rows.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)  # [N, 1]
        out = self._by_halves(rows, size) if self._halves else self._multiply(rows / size)
        return out.mul_(size).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _by_halves(self, rows: Tensor, size: Tensor) -> Tensor:
        both = rows.new_empty(2, *rows.shape, dtype=torch.float32)
        upper, lower = both[0], both[1]
        torch.div(rows, size, out=upper)
        torch.mul(upper, self._levels, out=lower)
        lower.sub_(lower.round()).mul_(2)  # what rounding loses, within [-1, 1]
        first, second = self._multiply(both.flatten(0, 1)).chunk(2)
        return first.add_(second, alpha=0.5 / self._levels)

    def _multiply(self, scaled: Tensor) -> Tensor:
        """Multiply ``[N, d_in]`` within [-1, 1], rounded to ``1 / levels``, in float32."""
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return product(scaled.float(), 1 / self._levels, self._levels + 1, self._packed)


class FourBitLinear(nn.Module):
    """The same in 4 bits: ``w = step (code - 8) + middle``, both for each 32 inputs.

    Reading half the bytes is what counts for few rows. For more rows, arithmetic is, so the
    8-bit form lies beside it.

    Args:
        weight: ``[d_out, d_in]``, only read; d_in a multiple of 32, d_out of 16.
        halves: As of ``EightBitLinear``.

    Attributes:
        few_rows: Up to this many rows are multiplied in 4 bits.
    """

    def __init__(self, weight: Tensor, *, halves: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.few_rows = FEW_ROWS
        groups = weight.float().view(self.out_features, -1, GROUP)
        least = groups.amin(-1, keepdim=True)
        steps = (groups.amax(-1, keepdim=True) - least).div_(15).clamp_min_(_SMALLEST)
        codes = ((groups - least) / steps).round_().clamp_(0, 15).int().view_as(weight)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001 - has no public name
        pairs = torch.cat([steps, least + 8 * steps], -1)
        self._scales = pairs.transpose(0, 1).contiguous().bfloat16()  # [d_in / 32, d_out, 2]
        self._wide = EightBitLinear(weight, halves=halves)
        self.held_bytes = weight.numel() // 2 + 2 * self._scales.numel() + self._wide.held_bytes

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``, of the same type."""
        rows = x.reshape(-1, self.in_features)
        if rows.shape[0] > self.few_rows:
            return self._wide.forward(x)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - has no public name
        out = product(rows.bfloat16(), self._packed, GROUP, self._scales)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


Product = FrozenLinear | EightBitLinear | FourBitLinear | PackedLinear


def hold(
    weight: Tensor, kind: WeightFormat, *, halves: bool = False, kernels: Library | None = None
) -> Product:
    """Hold ``weight [d_out, d_in]`` as ``kind``; ``fp32`` and ``bf16`` keep the tensor itself.

    Args:
        weight: Only read.
        kind: How.
        halves: As of ``EightBitLinear``; compiled kernels need no halves.
        kernels: Compiled ones for ``int8`` and ``int4``; None for torch's.

    Raises:
        UnsupportedWeightsError: This machine or this shape has no product of the kind.
    """
    if kind in {"fp32", "bf16"}:
        return FrozenLinear(weight)
    if weight.device.type != "cpu":
        raise UnsupportedWeightsError(f"{kind} weights need a CPU; the model is on {weight.device}")
    if kernels is not None:
        return PackedLinear(kernels, weight, bits=BITS[kind])
    try:
        form = EightBitLinear if kind == "int8" else FourBitLinear
        return form(weight, halves=halves)
    except (RuntimeError, NotImplementedError) as err:
        shape = tuple(weight.shape)
        raise UnsupportedWeightsError(f"no {kind} product for a {shape} matrix: {err}") from err


def take(parts: Sequence[Any], kind: WeightFormat, *, halves: bool = False) -> Product:
    """Hold the weights of linear layers that read the same input as one matrix.

    As loaded, the layers keep views of it. Quantised, their own weights are freed: whoever takes
    them owns the model from then on.

    Raises:
        UnsupportedWeightsError: They were taken before, or there is no product of the kind.
    """
    if any(not isinstance(part, nn.Linear) or not part.weight.numel() for part in parts):
        raise UnsupportedWeightsError(
            "another engine holds the quantised weights of this backbone; load it again"
        )
    whole = torch.cat([part.weight.detach() for part in parts])
    taken = hold(whole, kind, halves=halves)
    at = 0
    for part in parts:
        rows = part.weight.shape[0]
        kept = isinstance(taken, FrozenLinear)
        part.weight.data = whole[at : at + rows] if kept else whole.new_empty(0)
        at += rows
    return taken


def take_site(module: Any, kind: WeightFormat) -> tuple[Any, Product]:
    """Hold a linear layer, or what lies under a site, as ``kind``.

    Returns:
        What stands in the layer's place, a site with its factors as they were; and the matrix.

    Raises:
        UnsupportedWeightsError: As of ``take``.
    """
    site = module if isinstance(module, BemSite) else None
    if kind in {"fp32", "bf16"}:
        return module, FrozenLinear((site.base if site else module).weight)
    taken = take([site.base if site else module], kind)
    if site is None:
        return taken, taken
    site.base = taken
    return site, taken
