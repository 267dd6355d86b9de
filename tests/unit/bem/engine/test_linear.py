"""Tests of frozen linear layers in each weight format."""

from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.linear import (
    MAX_INT4_ROWS,
    FrozenLinear,
    Int4Linear,
    Int8Linear,
    fuse_and_quantize,
    quantize,
)
from bem.engine.native import KernelPreference
from bem.engine.weight_autotune import select_format
from bem.errors import UnsupportedWeightsError
from bem.testing import tiny_backbone
from torch import Tensor, nn

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.unit.bem.engine.native.kernels import packed

IDS = torch.tensor([[5, 77, 9, 31, 250, 4, 18, 42]])
FORMATS: tuple[tuple[WeightFormat, KernelPreference], ...] = (
    ("fp32", "torch"),
    ("bf16", "torch"),
    ("int8", "torch"),
    ("int4", "torch"),
    ("int8", "native"),
    ("int4", "native"),
)


def formatted(kind: WeightFormat, kernels: KernelPreference) -> Backbone:
    """Return the tiny model in a weight format with the named kernels."""
    if kernels == "native":
        return packed(kind)
    return select_format(tiny_backbone(), kind, "torch")[0]


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the relative error of a product."""
    return float((found - wanted).norm() / wanted.norm())


def matrix(outputs: int = 64, inputs: int = 96) -> Tensor:
    """Return a random matrix."""
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))


def logits(decoder: Decoder, ids: Tensor = IDS) -> Tensor:
    """Return the last position's logits of a fresh slot."""
    with torch.inference_mode():
        span = decoder.plan([0], [0], ids.shape[1])
        hidden, _ = decoder.lower(ids, span)
        return decoder.logits(decoder.upper(hidden, span))


@pytest.mark.parametrize("wide_inputs", [False, True])
def test_eight_bits_are_close_and_rows_independent(*, wide_inputs: bool) -> None:
    """An 8-bit product errs by less than 1.5 %, and a row's result is the same in any batch."""
    weight, x = matrix(), torch.randn(9, 96, generator=torch.Generator().manual_seed(2))
    x[4] *= 1e4
    product = Int8Linear(weight, wide_inputs=wide_inputs)

    found = product(x)

    for row in range(len(x)):
        assert relative(found[row], x[row] @ weight.T) < 0.015
    assert torch.equal(product(x[3:4]), found[3:4])


def test_halves_leave_only_the_rounding_of_weights() -> None:
    """Inputs in two wide_inputs multiply the rounded weights as float32 inputs would."""
    weight, x = matrix(), matrix(9)
    scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scales).round() * scales

    assert relative(Int8Linear(weight, wide_inputs=True)(x), x @ rounded.T) < 2e-4


def test_four_bits_find_the_values_of_a_q4_1_file_again() -> None:
    """A matrix on 16 even steps per 32 inputs is reproduced up to bfloat16 rounding."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (64, 3, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    weight = (codes * torch.rand(64, 3, 1, generator=generator) - 0.3).view(64, 96)
    x = matrix(MAX_INT4_ROWS)

    assert relative(Int4Linear(weight, wide_inputs=True)(x), x @ weight.T) < 0.01


def test_a_zero_row_gives_zeros() -> None:
    """A row of zeros, which has no scale of its own, gives zeros."""
    for kind, _ in FORMATS[2:4]:
        assert not quantize(matrix(), kind, wide_inputs=True)(torch.zeros(16, 96)).any()


@pytest.mark.parametrize(("kind", "kernels"), FORMATS)
def test_zero_codes_are_the_base_exactly(
    kind: WeightFormat, kernels: KernelPreference, tmp_path: Path
) -> None:
    """In every form, an adapter with a code of zeros gives the base model's logits bit for bit."""
    backbone = formatted(kind, kernels)
    write_adapter(tmp_path, backbone, "alpha", seed=0)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
    slot = bank.load(tmp_path / "alpha").slot
    decoder = Decoder(backbone, bank, KVCache(backbone, slots=1, context_tokens=32))
    bare = logits(decoder)

    bank.row_codes.set(torch.tensor([[slot]]), torch.zeros(1, 1, RANK))
    silent = logits(decoder)
    bank.row_codes.set(torch.tensor([[slot]]), torch.ones(1, 1, RANK))
    active = logits(decoder)

    assert torch.equal(silent, bare)
    assert not torch.allclose(active, bare, atol=0.01)


@pytest.mark.parametrize(("kind", "kernels"), FORMATS[:4])
def test_every_form_computes_the_same_model(kind: WeightFormat, kernels: KernelPreference) -> None:
    """Logits of a quantised model stay near those of transformers on the same weights."""
    ids = IDS.repeat(1, 2)
    reference = tiny_backbone()
    with torch.inference_mode():
        wanted = reference.model(input_ids=ids).logits[:, -1]
    backbone = formatted(kind, kernels)
    decoder = Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=32))

    limits = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.05, "int4": 0.05}
    assert relative(logits(decoder, ids), wanted) < limits[kind]


@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_quantised_weights_have_one_owner(kernels: KernelPreference) -> None:
    """A second engine on the same backbone is refused instead of reading freed weights."""
    backbone = formatted("int8", kernels)
    cache = KVCache(backbone, slots=1, context_tokens=32)
    decoder = Decoder(backbone, None, cache)

    assert decoder.weight_bytes < sum(p.numel() for p in tiny_backbone().model.parameters()) * 4
    with pytest.raises(UnsupportedWeightsError, match="another engine holds"):
        Decoder(backbone, None, cache)


def test_a_shape_without_a_product_is_named() -> None:
    """A matrix that cannot be grouped by 32 is refused with its shape."""
    with pytest.raises(UnsupportedWeightsError, match=r"int4.*\(64, 40\)"):
        quantize(matrix(64, 40), "int4")


def test_neighbours_in_memory_are_fused_without_a_copy() -> None:
    """Weights that follow each other become one view; others are copied, with the same product."""
    memory, x = matrix(64), matrix(5)
    parts = [nn.Linear(96, rows, bias=False) for rows in (40, 24)]
    for part in parts:
        part.requires_grad_(requires_grad=False)
    parts[0].weight.data, parts[1].weight.data = memory[:40], memory[40:]
    view = fuse_and_quantize(parts, "fp32")
    assert isinstance(view, FrozenLinear)
    assert view.weight.data_ptr() == memory.data_ptr()
    assert torch.equal(view(x), x @ memory.T)

    parts[0].weight.data = memory[:40].clone()
    copy = fuse_and_quantize(parts, "fp32")
    assert isinstance(copy, FrozenLinear)
    assert copy.weight.data_ptr() != memory.data_ptr()
    assert torch.equal(copy(x), x @ memory.T)
    assert parts[1].weight.data_ptr() == copy.weight[40:].data_ptr()
