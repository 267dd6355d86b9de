"""Norms of a sum of low-rank deltas from small Gram matrices; the sum itself is never formed.

For ``dW = sum_i s_i B_i diag(c_i) A_i = B A`` with the factors stacked to ``B [d_out, R]`` and
``A [R, d_in]``: ``|dW|_F^2 = trace((B^T B)(A A^T))``, and the nonzero squared singular values of
``dW`` are the eigenvalues of ``(B^T B)(A A^T)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """A low-rank change of one layer, ``scale * B diag(code) A``.

    Attributes:
        a: ``[r, d_in]``.
        b: ``[d_out, r]``.
        code: ``[r]``.
        scale: Factor in front.
    """

    a: Tensor
    b: Tensor
    code: Tensor
    scale: float = 1.0

    def with_output(self, b: Tensor) -> "Delta":
        """Return it with another output factor."""
        return replace(self, b=b)

    def scaled(self, factor: float) -> "Delta":
        """Return it times ``factor``."""
        return replace(self, scale=self.scale * factor)

    def matrix(self) -> Tensor:
        """Form the change, ``[d_out, d_in]``; for small layers and for tests."""
        return self.scale * (self.b * self.code) @ self.a


def frobenius(deltas: Sequence[Delta]) -> float:
    """Return the Frobenius norm of the sum of ``deltas``; 0 for none."""
    if not deltas:
        return 0.0
    left, right = _grams(deltas)
    return float((left * right.T).sum().clamp(min=0).sqrt())


def spectral(deltas: Sequence[Delta]) -> float:
    """Return the largest singular value of the sum of ``deltas``; 0 for none."""
    if not deltas:
        return 0.0
    left, right = _grams(deltas)
    return float(torch.linalg.eigvals(left @ right).real.max().clamp(min=0).sqrt())


def limit(deltas: Sequence[Delta], tau: float) -> float:
    """Return the factor in (0, 1] that brings the sum's Frobenius norm to at most ``tau``.

    Raises:
        ValueError: ``tau`` is not positive.
    """
    if not tau > 0:
        raise ValueError(f"the trust region's radius must be positive, is {tau}")
    norm = frobenius(deltas)
    return 1.0 if norm <= tau else tau / norm


def _grams(deltas: Sequence[Delta]) -> tuple[Tensor, Tensor]:
    """Return ``B^T B`` and ``A A^T`` of the stacked factors, float64: ``[R, R]`` each."""
    b = torch.cat([delta.scale * delta.b * delta.code for delta in deltas], dim=1).double()
    a = torch.cat([delta.a for delta in deltas], dim=0).double()
    return b.T @ b, a @ a.T
