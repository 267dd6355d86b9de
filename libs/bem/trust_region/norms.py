"""Norms of a sum of low-rank weight updates, computed from small Gram matrices.

For ``dW = sum_i s_i B_i diag(c_i) A_i = B A`` with the factors stacked to ``B [d_out, R]`` and
``A [R, d_in]``: ``|dW|_F^2 = trace((B^T B)(A A^T))``, and the nonzero squared singular values of
``dW`` are the eigenvalues of ``(B^T B)(A A^T)``. Both need ``[R, R]`` matrices only; the sum
``[d_out, d_in]`` is never formed.

Example:
    Two updates of rank 1 on a layer of width 2: ``B_1 = (1, 0)^T``, ``A_1 = (3, 0)`` and
    ``B_2 = (0, 1)^T``, ``A_2 = (0, 4)``. The sum is ``diag(3, 4)``. Stacked, ``B^T B = I`` and
    ``A A^T = diag(9, 16)``, so ``|dW|_F = sqrt(9 + 16) = 5`` and ``|dW|_2 = sqrt(16) = 4``. With
    ``tau = 2`` both updates are scaled by ``2 / 5``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRankDelta:
    """A low-rank update of one layer, ``scale * B diag(code) A``.

    Attributes:
        a: Input factor ``[r, d_in]``.
        b: Output factor ``[d_out, r]``.
        code: Rank-wise gate vector ``[r]``.
        scale: Factor of the whole product.
    """

    a: Tensor
    b: Tensor
    code: Tensor
    scale: float = 1.0

    def with_output(self, b: Tensor) -> "LowRankDelta":
        """Return the update with another output factor."""
        return replace(self, b=b)

    def scaled(self, factor: float) -> "LowRankDelta":
        """Return the update times ``factor``."""
        return replace(self, scale=self.scale * factor)

    def matrix(self) -> Tensor:
        """Return the dense matrix ``[d_out, d_in]``; for small layers and for tests."""
        return self.scale * (self.b * self.code) @ self.a


def frobenius_norm(deltas: Sequence[LowRankDelta]) -> float:
    """Return the Frobenius norm of the sum of ``deltas``; 0 without any."""
    if not deltas:
        return 0.0
    left, right = _grams(deltas)
    return float((left * right.T).sum().clamp(min=0).sqrt())


def spectral_norm(deltas: Sequence[LowRankDelta]) -> float:
    """Return the largest singular value of the sum of ``deltas``; 0 without any."""
    if not deltas:
        return 0.0
    left, right = _grams(deltas)
    # The product is not symmetric, but its eigenvalues are real and not negative: it is similar
    # to a product of two positive semi-definite matrices. Rounding may leave tiny signs.
    return float(torch.linalg.eigvals(left @ right).real.max().clamp(min=0).sqrt())


def trust_region_scale(
    deltas: Sequence[LowRankDelta], tau: float, *, unscaled: Sequence[LowRankDelta] = ()
) -> float:
    """Return the factor of ``deltas`` that brings the sum's Frobenius norm to at most ``tau``.

    Args:
        deltas: Updates that are scaled.
        tau: Radius of the trust region, positive.
        unscaled: Updates that are part of the sum and are not scaled.

    Returns:
        The largest factor in [0, 1]; 0 only if ``unscaled`` fills the trust region alone.

    Raises:
        ValueError: ``tau`` is not positive.
    """
    check_radius(tau)
    if not deltas:
        return 1.0
    products = gram_product([*deltas, *unscaled])
    scaled = torch.zeros(len(products), dtype=torch.float64)
    scaled[: sum(len(delta.code) for delta in deltas)] = 1
    return float(largest_factor(products, scaled, 1 - scaled, tau))


def check_radius(tau: float) -> None:
    """Check the radius of a trust region.

    Raises:
        ValueError: ``tau`` is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau: {tau} is not a trust-region radius; it must be positive")


def gram_product(deltas: Sequence[LowRankDelta]) -> Tensor:
    """Return ``M [R, R]`` float64 such that gates ``c [R]`` give the squared norm ``c^T M c``.

    The R ranks are those of all ``deltas`` in order; their own codes and scales are part of ``M``.
    """
    left, right = _grams(deltas)
    return left * right.T


def largest_factor(products: Tensor, scaled: Tensor, unscaled: Tensor, tau: float) -> Tensor:
    """Return the largest ``f`` in [0, 1] with ``|unscaled + f scaled| <= tau`` at each site.

    The squared norm is ``u + 2 f w + f^2 d``, a parabola in ``f``; ``f`` is its larger crossing
    with ``tau^2``.

    Args:
        products: Gram products of the sites, ``[..., R, R]`` as ``gram_product`` returns them.
        scaled: Gates of the updates that are scaled, ``[R]`` float64; 0 for the others.
        unscaled: Gates of the updates that are not scaled, ``[R]`` float64; 0 for the others.
        tau: Radius of the trust region, positive; infinity bounds nothing.

    Returns:
        Factors ``[...]`` float64; 0 where the unscaled updates exceed the radius alone.
    """
    along = products @ scaled
    d, w = along @ scaled, along @ unscaled
    left = tau**2 - (products @ unscaled) @ unscaled
    inside = d + 2 * w <= left
    root = ((w**2 + d * left).clamp(min=0).sqrt() - w) / d.clamp(min=torch.finfo(d.dtype).tiny)
    bounded = torch.where(left > 0, root.clamp(0, 1), torch.zeros_like(root))
    return torch.where(inside, torch.ones_like(root), bounded)


def _grams(deltas: Sequence[LowRankDelta]) -> tuple[Tensor, Tensor]:
    """Return ``B^T B`` and ``A A^T`` of the stacked factors, ``[R, R]`` float64 each.

    In float32 the squares would lose half of the digits of a small norm.
    """
    b = torch.cat([delta.scale * delta.b * delta.code for delta in deltas], dim=1).double()
    a = torch.cat([delta.a for delta in deltas], dim=0).double()
    return b.T @ b, a @ a.T
