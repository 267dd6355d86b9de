"""Tests of packed matrices and their products."""

import pytest
import torch
from bem.engine.native import PackedLinear
from bem.errors import UnsupportedWeightsError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.bem.engine.native.kernels import library, rounded, tied

BITS = (4, 8)


def random(seed: int, *shape: int) -> Tensor:
    """Return normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    outputs=st.integers(1, 70),
    groups=st.integers(1, 6),
    cut=st.integers(0, 31),
    rows=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_products_are_those_of_the_stored_values(
    *, bits: int, outputs: int, groups: int, cut: int, rows: int, seed: int
) -> None:
    """Any shape and number of rows equals float64 on the stored weights and rounded inputs."""
    inputs = 32 * groups - (cut if bits == 8 else 0)
    weight, x = random(seed, outputs, inputs), random(seed + 1, rows, inputs)
    x[rows // 2] *= 1e4
    product = PackedLinear(library(), weight, bits=bits)

    found = product(x)

    held = product.dequantize().double()
    size = x.norm(dim=1, keepdim=True) * held.norm(dim=1)
    wrong = (found - rounded(x) @ held.T).abs() / size
    assert torch.where(tied(x)[:, None], 0.0, wrong).max() < 1e-5
    assert ((found - x.double() @ held.T).abs() / size).max() < 0.02


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(2, 40),
    begin=st.integers(0, 39),
    count=st.integers(1, 40),
)
def test_rows_do_not_depend_on_each_other(bits: int, rows: int, begin: int, count: int) -> None:
    """Some of the rows give the same bits as all of them, wherever they stand."""
    begin = min(begin, rows - 1)
    product = PackedLinear(library(), random(0, 48, 96), bits=bits)
    x = random(1, rows, 96)

    found = product(x[begin : begin + count])

    assert torch.equal(found, product(x)[begin : begin + count])


def test_four_bits_hold_the_values_of_a_q4_1_file() -> None:
    """Groups on 16 even steps of float16 step and least value are reproduced up to rounding."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (64, 3, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    step = (torch.rand(64, 3, 1, generator=generator) + 0.1).half().float()
    least = (-8 * step * torch.rand(64, 3, 1, generator=generator)).half().float()
    weight = (codes * step + least).view(64, 96)

    held = PackedLinear(library(), weight, bits=4).dequantize()

    assert (held - weight).abs().max() <= 2e-6


def test_eight_bits_hold_weights_to_half_a_step() -> None:
    """A stored weight differs by at most half of its output's largest weight over 127."""
    weight = random(5, 33, 70)

    held = PackedLinear(library(), weight, bits=8).dequantize()

    assert ((held - weight).abs() <= weight.abs().amax(1, keepdim=True) / 253).all()


@settings(max_examples=20, deadline=None)
@given(outputs=st.integers(1, 90), rows=st.integers(1, 40), size=st.floats(0.01, 30))
def test_likelihoods_are_those_of_all_outputs(outputs: int, rows: int, size: float) -> None:
    """The log-probability of one output is that of the softmax over the whole product."""
    product = PackedLinear(library(), random(0, outputs, 64), bits=8)
    x, wanted = random(1, rows, 64) * size, torch.arange(rows) * 7 % outputs

    found = product.target_logprobs(x, wanted)

    logits = product(x)
    every = logits.double().log_softmax(1)
    # A log-probability near 0 is the difference of two logits, each exact to its own last bit.
    last_bit = logits.abs().max().item() * torch.finfo(torch.float32).eps
    assert torch.allclose(
        found.double(), every[torch.arange(rows), wanted], rtol=1e-5, atol=2e-5 + last_bit
    )


def test_an_output_that_is_not_there_is_refused() -> None:
    """Outputs beyond the matrix, or not one a row, are named."""
    product = PackedLinear(library(), random(0, 10, 64), bits=8)

    with pytest.raises(ValueError, match="1 of 10 outputs for 1 rows"):
        product.target_logprobs(random(1, 1, 64), torch.tensor([10]))


@pytest.mark.parametrize("bits", BITS)
def test_zeros_give_zeros(bits: int) -> None:
    """A row of zeros, which has no scale of its own, gives zeros."""
    assert not PackedLinear(library(), random(0, 40, 64), bits=bits)(torch.zeros(17, 64)).any()


def test_a_shape_that_cannot_be_grouped_is_named() -> None:
    """Four bits refuse inputs that are not a multiple of 32, with the shape."""
    with pytest.raises(UnsupportedWeightsError, match=r"int4.*\(64, 40\)"):
        PackedLinear(library(), random(0, 64, 40), bits=4)
