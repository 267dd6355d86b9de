"""Linear layers with frozen weights: as loaded, or quantised to 8 or 4 bits.

``int8``: one scale per output, products by VNNI instructions. Each row of inputs is scaled by its
largest value, so that no row depends on another. Where inputs have outliers they are split into a
high and a low 8-bit part, which is as accurate as 16 bits; without VNNI they always are, with 7
bits each.
``int4``: scale and minimum for each 32 inputs. Q4_1 files store the same, so the values of such a
file are reproduced except for the rounding of scales to bfloat16. Batches of more than a few rows
use an ``int8`` copy of the same matrix.
"""

import ctypes
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
MAX_INT4_ROWS = 8
_MIN_SCALE = 1e-12


class FrozenLinear(nn.Module):
    """A linear layer without bias, ``d_in -> d_out``, with its weight as loaded.

    Args:
        weight: ``[d_out, d_in]``.
        owners: Tensors that own the memory of ``weight`` if it is a view without owner.
    """

    def __init__(self, weight: Tensor, owners: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight_bytes = weight.numel() * weight.element_size()
        self.weight = weight
        self._owners = tuple(owners)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``."""
        return f.linear(x, self.weight)


class Int8Linear(nn.Module):
    """A linear layer in 8 bits: ``y = s W8 x8``, one scale per output and one per input row.

    Args:
        weight: ``[d_out, d_in]``; only read.
        wide_inputs: Whether inputs are multiplied as a high and a low part, at twice the cost;
            without VNNI they always are.
    """

    def __init__(self, weight: Tensor, *, wide_inputs: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Without VNNI, products of 8 by 8 bits are summed in pairs of 16 bits, which overflow
        # beyond 7 bits of inputs; 7 bits alone would double the error of an 8-bit model.
        vnni = bool(torch.cpu.get_capabilities().get("avx512_vnni"))
        self._levels, self._wide_inputs = 127 if vnni else 63, wide_inputs or not vnni
        scales = weight.float().abs().amax(1).clamp_min(_MIN_SCALE).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():
            # This release of torch has no other way to these kernels.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            quantised = torch.quantize_per_channel(weight.float(), scales, zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self.weight_bytes = weight.numel() + 4 * len(scales)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``, of the same type."""
        rows = x.reshape(-1, self.in_features)
        size = rows.abs().amax(-1, keepdim=True).clamp_min_(_MIN_SCALE)  # [N, 1]
        if self._wide_inputs:
            out = self._multiply_high_low(rows, size)
        else:
            out = self._multiply(rows / size)
        return out.mul_(size).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _multiply_high_low(self, rows: Tensor, size: Tensor) -> Tensor:
        parts = rows.new_empty(2, *rows.shape, dtype=torch.float32)
        high, low = parts[0], parts[1]
        torch.div(rows, size, out=high)
        torch.mul(high, self._levels, out=low)
        low.sub_(low.round()).mul_(2)  # the rounding error of the high part, within [-1, 1]
        first, second = self._multiply(parts.flatten(0, 1)).chunk(2)
        return first.add_(second, alpha=0.5 / self._levels)

    def _multiply(self, scaled: Tensor) -> Tensor:
        """Multiply ``[N, d_in]`` within [-1, 1], rounded to ``1 / levels``, in float32."""
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return product(scaled.float(), 1 / self._levels, self._levels + 1, self._packed)


class Int4Linear(nn.Module):
    """A linear layer in 4 bits: ``w = step (code - 8) + middle``, both for each 32 inputs.

    For few rows the time is that of reading the weights, so half the bytes are half the time. For
    more rows arithmetic dominates, and the 8-bit copy is used.

    Args:
        weight: ``[d_out, d_in]``, only read; d_in a multiple of 32, d_out of 16.
        wide_inputs: Whether the 8-bit copy multiplies inputs as a high and a low part.

    Attributes:
        max_int4_rows: Largest number of rows that are multiplied in 4 bits.
    """

    def __init__(self, weight: Tensor, *, wide_inputs: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.max_int4_rows = MAX_INT4_ROWS
        groups = weight.float().view(self.out_features, -1, GROUP)
        minimum = groups.amin(-1, keepdim=True)
        steps = (groups.amax(-1, keepdim=True) - minimum).div_(15).clamp_min_(_MIN_SCALE)
        codes = ((groups - minimum) / steps).round_().clamp_(0, 15).int().view_as(weight)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001 - has no public name
        pairs = torch.cat([steps, minimum + 8 * steps], -1)
        self._scales = pairs.transpose(0, 1).contiguous().bfloat16()  # [d_in / 32, d_out, 2]
        self._int8 = Int8Linear(weight, wide_inputs=wide_inputs)
        self.weight_bytes = weight.numel() // 2 + 2 * self._scales.numel() + self._int8.weight_bytes

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d_in]`` to ``[..., d_out]``, of the same type."""
        rows = x.reshape(-1, self.in_features)
        if rows.shape[0] > self.max_int4_rows:
            return self._int8.forward(x)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - has no public name
        out = product(rows.bfloat16(), self._packed, GROUP, self._scales)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


LinearLayer = FrozenLinear | Int8Linear | Int4Linear | PackedLinear


def quantize(
    weight: Tensor, kind: WeightFormat, *, wide_inputs: bool = False, kernels: Library | None = None
) -> LinearLayer:
    """Return a linear layer of ``weight [d_out, d_in]`` in one format.

    Args:
        weight: Only read; ``fp32`` and ``bf16`` keep the tensor itself.
        kind: Weight format.
        wide_inputs: Whether inputs have outliers; see ``Int8Linear``. Compiled kernels ignore it.
        kernels: Compiled kernels for ``int8`` and ``int4``; None for torch's.

    Raises:
        UnsupportedWeightsError: This machine or this shape does not support the format.
    """
    if kind in {"fp32", "bf16"}:
        return FrozenLinear(weight)
    if weight.device.type != "cpu":
        raise UnsupportedWeightsError(
            f"weights: {kind} needs a CPU; the model is on {weight.device}; use fp32 or bf16"
        )
    if kernels is not None:
        return PackedLinear(kernels, weight, bits=BITS[kind])
    try:
        layer = Int8Linear if kind == "int8" else Int4Linear
        return layer(weight, wide_inputs=wide_inputs)
    except (RuntimeError, NotImplementedError) as err:
        shape = tuple(weight.shape)
        raise UnsupportedWeightsError(f"no {kind} product for a {shape} matrix: {err}") from err


def fuse_and_quantize(
    parts: Sequence[Any], kind: WeightFormat, *, wide_inputs: bool = False
) -> LinearLayer:
    """Return one linear layer of several that read the same input.

    As loaded, weights that are neighbours in memory, as in the mapped weight file, become one view
    without a copy; others are copied, and the parts keep views of the copy. Quantised, the weights
    of the parts are freed, and the caller owns the model from then on.

    Args:
        parts: Linear layers, whose biases are not read; of sites the base layers.
        kind: Weight format.
        wide_inputs: Whether inputs have outliers; see ``Int8Linear``.

    Raises:
        UnsupportedWeightsError: The weights were taken before, or the format is not supported.
    """
    parts = [part.base if isinstance(part, BemSite) else part for part in parts]
    if any(not isinstance(part, nn.Linear) or not part.weight.numel() for part in parts):
        raise UnsupportedWeightsError(
            "another engine holds the quantised weights of this backbone; load it again"
        )
    weights = [part.weight.detach() for part in parts]
    if kind in {"fp32", "bf16"} and (view := _neighbours_as_one(weights)) is not None:
        return FrozenLinear(view, owners=weights)
    fused = torch.cat(weights)
    layer = quantize(fused, kind, wide_inputs=wide_inputs)
    row = 0
    for part in parts:
        rows = part.weight.shape[0]
        as_loaded = isinstance(layer, FrozenLinear)
        part.weight.data = fused[row : row + rows] if as_loaded else fused.new_empty(0)
        row += rows
    return layer


def quantize_site(module: Any, kind: WeightFormat) -> tuple[Any, LinearLayer]:
    """Quantise a linear layer, or the base layer of an adapter site.

    Returns:
        The module that takes the layer's place, a site with its factors unchanged; and the frozen
        linear layer.

    Raises:
        UnsupportedWeightsError: The weights were taken before, or the format is not supported.
    """
    site = module if isinstance(module, BemSite) else None
    if kind in {"fp32", "bf16"}:
        return module, FrozenLinear((site.base if site else module).weight)
    layer = fuse_and_quantize([site.base if site else module], kind)
    if site is None:
        return layer, layer
    site.base = layer
    return site, layer


def _neighbours_as_one(weights: Sequence[Tensor]) -> Tensor | None:
    """Return one view of matrices that follow each other in memory; None if they do not.

    A copy would be private to the process. The view stays in the mapped weight file, whose pages
    all processes share.
    """
    address = weights[0].data_ptr()
    for weight in weights:
        if (
            weight.device.type != "cpu"
            or not weight.is_contiguous()
            or weight.data_ptr() != address
        ):
            return None
        address += weight.nbytes
    size = sum(weight.nbytes for weight in weights)
    memory = (ctypes.c_byte * size).from_address(weights[0].data_ptr())
    fused = torch.frombuffer(memory, dtype=weights[0].dtype)
    return fused.view(-1, weights[0].shape[1])
