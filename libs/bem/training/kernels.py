"""Autograd functions of a frozen decoder layer that skip the gradients of frozen weights.

Every function works on packed tokens ``[T, F]``. Frozen weights get no gradient, so their inputs
need not be kept for the backward pass: only what the factors, the norms and the gate need is saved.

Example:
    ``GatedLowRankLinear`` for one token and scalars ``residual = 10, x = 1, W = 2, A = 3, B = 5``
    and ``code = 0.5``. Forward::

        y = residual + x W + (code * (x A)) B = 10 + 2 + (0.5 * 3) * 5 = 19.5

    Backward for ``dy = 1``. The inputs of the gradients are ``x`` and ``low = x A``; the product
    ``code * low`` is computed again instead of being saved::

        d residual = 1                      dx    = W + (code * B) A = 2 + 2.5 * 3 = 9.5
        dA = (code * B) x = 2.5             dB    = code * low = 1.5
        dW = none, W is frozen              dcode = B * low = 15
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, silu


class RmsNorm(Function):
    """RMSNorm (arXiv 1910.07467) with a frozen weight; saves its input and one number per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Map ``x [T, F]`` to ``x / rms(x) * weight``; the mean square is taken in float32."""
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


class SwiGLU(Function):
    """SwiGLU (arXiv 2002.05202) on gate and up in one tensor; saves only that tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        """Map ``[T, 2 H]`` to ``silu(gate) * up``, ``[T, H]``."""
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradients of gate and up in one tensor ``[T, 2 H]``."""
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(silu(gate), grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


class GatedLowRankLinear(Function):
    """A site and the residual connection: ``residual + x W^T + (code * (x A^T)) B^T``.

    It computes the same sum as ``BemSite`` with one adapter, without gathering the factors for
    every row.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, code: Tensor
    ) -> Tensor:
        """Return ``[T, d_out]``.

        Args:
            ctx: Context of autograd.
            residual: ``[T, d_out]``.
            x: ``[T, d_in]``.
            weight: ``[d_out, d_in]``, frozen.
            a: ``[r, d_in]``.
            b: ``[d_out, r]``.
            code: Code times the adapter's scale, ``[T, r]``, or ``[1, r]`` for all tokens.
        """
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, code, low)
        # The sum is rounded once, at the magnitude of the residual, which is far above that of the
        # low-rank term: in bfloat16 a second rounding adds half as much noise to the gradients.
        return (x @ weight.T).addmm_(low * code, b.T).add_(residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of residual, x, A, B and code; all but the first only if needed."""
        x, weight, a, b, code, low = ctx.saved_tensors
        up = grad @ b  # [T, r]
        gated = up * code
        # The lowest layer with sites reads a constant, so nothing below it needs a gradient.
        grad_x = (grad @ weight).addmm_(gated, a) if ctx.needs_input_grad[1] else None
        grad_code = None
        if ctx.needs_input_grad[5]:
            grad_code = (up * low).sum_to_size(code.shape)
        # An online update changes codes alone and leaves the factors as they are.
        grad_a = gated.T @ x if ctx.needs_input_grad[3] else None
        grad_b = grad.T @ (low * code) if ctx.needs_input_grad[4] else None
        return grad, grad_x, None, grad_a, grad_b, grad_code


def apply_rotary(x: Tensor, rotations: Tensor) -> Tensor:
    """Apply rotary position embedding (RoPE, arXiv 2104.09864) to pairs of neighbours.

    Args:
        x: ``[T, H * D]`` float32; the two dimensions of each rotation lie side by side.
        rotations: ``[T, 1, D / 2]`` complex64 of modulus 1.
    """
    tokens, width = x.shape
    pairs = torch.view_as_complex(x.view(tokens, -1, rotations.shape[-1], 2))
    return torch.view_as_real(pairs * rotations).view(tokens, width)


def packed_attention(
    queries_keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    heads: tuple[int, int],
    *,
    prefixes: Sequence[Tensor] = (),
) -> Tensor:
    """Attend causally inside each packed sequence and never across sequences.

    It runs sequence by sequence rather than with a block-diagonal mask, so that no product is
    computed that the mask would discard.

    Args:
        queries_keys: ``[T, (H + K) * D]``.
        values: ``[T, K * D]``.
        lengths: Number of tokens of each sequence, T in total.
        heads: Number of query heads H, and of key and value heads K.
        prefixes: Keys and values before each sequence, ``[P, 2 K D]``; empty for none.

    Returns:
        ``[T, H * D]``.
    """
    out = []
    query_heads, kv_heads = heads
    before_each = prefixes or [values[:0].repeat(1, 2)] * len(lengths)
    for both, value, before in zip(
        queries_keys.split(list(lengths)), values.split(list(lengths)), before_each, strict=True
    ):
        queries, own_keys = both.split([both.shape[1] - value.shape[1], value.shape[1]], dim=-1)
        keys, earlier = before.to(value.dtype).chunk(2, dim=-1)
        keys, every_value = torch.cat([keys, own_keys]), torch.cat([earlier, value])
        mask = None
        if len(before):
            mask = torch.ones(len(queries), len(keys), dtype=torch.bool, device=keys.device)
            mask = mask.tril(len(before))
        attended = scaled_dot_product_attention(
            _split_heads(queries, query_heads),
            _split_heads(keys, kv_heads),
            _split_heads(every_value, kv_heads),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=query_heads != kv_heads,
        )
        out.append(attended[0].transpose(0, 1).reshape(both.shape[0], -1))
    return torch.cat(out)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Return ``[T, heads * D]`` as ``[1, heads, T, D]``."""
    return x.view(x.shape[0], heads, -1).transpose(0, 1).unsqueeze(0)
