"""Tests of the autograd functions: values and gradients against PyTorch's own."""

from collections.abc import Callable

import pytest
import torch
from bem.training.kernels import (
    GatedLowRankLinear,
    RmsNorm,
    SwiGLU,
    apply_rotary,
    packed_attention,
)
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu


def draw(*shape: int, grad: bool = True) -> Tensor:
    """Return a random float64 tensor."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def assert_same(
    apply: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """Assert that values and gradients of two functions are equal."""
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    a, b = apply(*inputs), expected(*inputs)
    torch.testing.assert_close(a, b)
    weight = torch.randn_like(a)
    for left, right in zip(
        torch.autograd.grad((a * weight).sum(), leaves),
        torch.autograd.grad((b * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_rms_norm_is_that_of_pytorch() -> None:
    """The mean square in float32 limits the precision of the comparison to float32 inputs."""
    torch.manual_seed(0)
    x = torch.randn(5, 8, requires_grad=True)
    weight = torch.randn(8)
    assert_same(
        lambda x: RmsNorm.apply(x, weight, 1e-5), lambda x: rms_norm(x, (8,), weight, 1e-5), x
    )


def test_swiglu_is_that_of_pytorch() -> None:
    """Gate and up share one tensor, and so do their gradients."""
    torch.manual_seed(0)
    assert_same(SwiGLU.apply, lambda x: silu(x[:, :3]) * x[:, 3:], draw(4, 6))


@pytest.mark.parametrize("codes", [4, 1])
def test_gated_low_rank_linear_is_the_formula(codes: int) -> None:
    """Residual, input, factors and code have the gradients of the written formula."""
    torch.manual_seed(0)
    weight = draw(5, 6, grad=False)
    inputs = (draw(4, 5), draw(4, 6), draw(2, 6), draw(5, 2), draw(codes, 2))

    def apply(r: Tensor, x: Tensor, a: Tensor, b: Tensor, code: Tensor) -> Tensor:
        out: Tensor = GatedLowRankLinear.apply(r, x, weight, a, b, code)
        return out

    assert_same(
        apply, lambda r, x, a, b, code: r + x @ weight.T + (code * (x @ a.T)) @ b.T, *inputs
    )


def test_worked_example_of_the_module_docstring() -> None:
    """The scalar example, forward and backward."""
    residual, x, a, b, code = (
        torch.tensor([[value]], requires_grad=True) for value in (10.0, 1.0, 3.0, 5.0, 0.5)
    )
    y = GatedLowRankLinear.apply(residual, x, torch.tensor([[2.0]]), a, b, code)
    gradients = torch.autograd.grad(y, (residual, x, a, b, code))

    assert y.item() == 19.5
    assert [gradient.item() for gradient in gradients] == [1, 9.5, 2.5, 1.5, 15]


def test_sum_is_rounded_once() -> None:
    """In bfloat16 two terms of 0.75 onto 256, whose next number is 258, are not both lost."""
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    part = one * 0.75

    assert GatedLowRankLinear.apply(one * 256, one, part, part, one, one).item() == 258


def test_rotary_turns_neighbouring_pairs() -> None:
    """A quarter turn maps (1, 0) to (0, 1) and keeps lengths."""
    x = torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    quarter = torch.full((1, 1, 1), 1j, dtype=torch.complex64)

    assert apply_rotary(x, quarter).tolist() == [[0, 1, 0, 2]]


def test_packed_attention_never_crosses_sequences() -> None:
    """Each sequence attends as if it were alone, with grouped key and value heads."""
    torch.manual_seed(0)
    queries_keys, values = torch.randn(5, (4 + 2) * 3), torch.randn(5, 2 * 3)
    apply = packed_attention(queries_keys, values, [2, 3], (4, 2))

    for part in (slice(0, 2), slice(2, 5)):
        heads = queries_keys[part].view(-1, 6, 3).transpose(0, 1)
        keys = heads[4:].repeat_interleave(2, 0)
        own_values = values[part].view(-1, 2, 3).transpose(0, 1).repeat_interleave(2, 0)
        alone = scaled_dot_product_attention(heads[:4], keys, own_values, is_causal=True)
        torch.testing.assert_close(apply[part], alone.transpose(0, 1).reshape(-1, 12))
