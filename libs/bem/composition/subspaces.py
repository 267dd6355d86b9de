"""Orthogonal slices of a layer's output space, so that missions do not disturb each other.

The idea of O-LoRA (arXiv 2310.14152), made exact: slices are disjoint columns of one orthonormal
basis, and every delta is projected on its mission's slice.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def allocate(width: int, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Give each mission columns of one random orthonormal basis.

    Args:
        width: d_out of the layer.
        sizes: Mission to number of dimensions, each at least 1, in all at most ``width``.
        seed: Of the basis; the same seed, width and sizes give the same slices.

    Returns:
        Mission to ``Q [d_out, k]`` with ``Q^T Q = I`` and ``Q_m^T Q_n = 0``.

    Raises:
        ValueError: The sizes do not fit.
    """
    total = sum(sizes.values())
    if total > width or any(size < 1 for size in sizes.values()):
        raise ValueError(f"slices {dict(sizes)} do not fit a width of {width}")
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, total, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q.float()
    return dict(zip(sizes, basis.split(list(sizes.values()), dim=1), strict=True))


def project(b: Tensor, q: Tensor) -> Tensor:
    """Project a delta's output factor on a slice: ``Q Q^T B`` for ``B [d_out, r]``."""
    return q @ (q.T @ b)


def overlap(q: Tensor, other: Tensor) -> float:
    """Return the largest cosine between two slices: 0 is orthogonal, 1 shares a direction."""
    return float(torch.linalg.matrix_norm(q.T @ other, ord=2))
