"""The steps of a frozen decoder layer, with backward passes that know what is frozen.

Every step works on flat tokens ``[T, F]`` of sequences that lie one behind the other. Frozen
weights get no gradient, so that no input is kept for them: only what the factors, the norms and
the gate need is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, silu


class Norm(Function):
    """RMS norm (arXiv 1910.07467) with a frozen weight; keeps its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Map ``x [T, F]`` to ``x / rms(x) * weight``; the mean is taken in float32."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps)).to(x.dtype)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return ``w g r - x r^3 mean(w g x)``."""
        x, weight, inverse = ctx.saved_tensors
        grad = grad * weight
        mean = torch.linalg.vecdot(grad, x).unsqueeze(-1) / x.shape[-1]
        return grad.mul_(inverse).addcmul_(x, mean * inverse.pow(3), value=-1), None, None


class GatedUnit(Function):
    """SwiGLU (arXiv 2002.05202) on gate and up in one tensor; keeps only that tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        """Map ``[T, 2 H]`` to ``silu(gate) * up``, ``[T, H]``."""
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Write both halves of the gradient into one tensor."""
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        into_gate, into_up = out.chunk(2, dim=-1)
        torch.mul(silu(gate), grad, out=into_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=into_gate)
        return out


class SiteStep(Function):
    """A site and the residual in one: ``residual + x W^T + (code * (x A^T)) B^T``.

    The same sum as ``BemSite`` of one adapter, without gathering its factors for every row.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, code: Tensor
    ) -> Tensor:
        """Return ``[T, d_out]``.

        Args:
            ctx: Autograd's.
            residual: ``[T, d_out]``.
            x: ``[T, d_in]``.
            weight: ``[d_out, d_in]``, frozen.
            a: ``[r, d_in]``.
            b: ``[d_out, r]``.
            code: ``[T, r]``, or ``[1, r]`` for all tokens, times the adapter's scale.
        """
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, code, low)
        # Rounded once at the residual's size, which is far above the step's: in bfloat16 a second
        # rounding adds half as much noise again to the gradients.
        return (x @ weight.T).addmm_(low * code, b.T).add_(residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of residual, x, A, B and code; x's only where something needs it."""
        x, weight, a, b, code, low = ctx.saved_tensors
        up = grad @ b  # [T, r]
        gated = up * code
        into_x = (grad @ weight).addmm_(gated, a) if ctx.needs_input_grad[1] else None
        into_code = None
        if ctx.needs_input_grad[5]:
            into_code = (up * low).sum_to_size(code.shape)
        return grad, into_x, None, gated.T @ x, grad.T @ (low * code), into_code


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn pairs of neighbours by their position's angles (RoPE, arXiv 2104.09864).

    Args:
        x: ``[T, H * D]`` float32, each pair of an angle side by side.
        turns: ``[T, 1, D / 2]`` complex64 of modulus 1.
    """
    tokens, width = x.shape
    pairs = torch.view_as_complex(x.view(tokens, -1, turns.shape[-1], 2))
    return torch.view_as_real(pairs * turns).view(tokens, width)


def attend(
    queries_keys: Tensor, values: Tensor, lengths: Sequence[int], heads: tuple[int, int]
) -> Tensor:
    """Attend causally inside each sequence and never across: ``[T, H * D]``.

    Sequence by sequence rather than by a block-diagonal mask: nothing is computed that a mask
    would throw away.

    Args:
        queries_keys: ``[T, (H + K) * D]``.
        values: ``[T, K * D]``.
        lengths: Tokens of each sequence, T in all.
        heads: Heads H of the queries and K of keys and values.
    """
    out = []
    count, shared = heads
    for both, value in zip(
        queries_keys.split(list(lengths)), values.split(list(lengths)), strict=True
    ):
        head = both.view(both.shape[0], count + shared, -1).transpose(0, 1)
        query, key = head.split([count, shared])
        found = scaled_dot_product_attention(
            query.unsqueeze(0),
            key.unsqueeze(0),
            value.view(value.shape[0], shared, -1).transpose(0, 1).unsqueeze(0),
            is_causal=True,
            enable_gqa=count != shared,
        )
        out.append(found[0].transpose(0, 1).reshape(both.shape[0], -1))
    return torch.cat(out)
