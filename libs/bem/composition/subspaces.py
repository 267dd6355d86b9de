"""Orthogonal subspaces (slices) of a layer's output space, one for each mission.

This makes the idea of O-LoRA (arXiv 2310.14152) exact: slices are disjoint columns of one
orthonormal basis, and every update is projected on its mission's slice. Updates of two missions
are then orthogonal, so that neither changes the output component of the other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def allocate_slices(width: int, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Give each mission columns of one random orthonormal basis.

    Args:
        width: Output width d_out of the layer.
        sizes: ``{mission: dimensions}``, each at least 1, at most ``width`` together.
        seed: Random seed of the basis; the same seed, width and sizes give the same slices.

    Returns:
        ``{mission: Q [d_out, k]}`` with ``Q^T Q = I`` and ``Q_m^T Q_n = 0``.

    Raises:
        ValueError: A size is below 1, or the sizes exceed the width.
    """
    total = sum(sizes.values())
    if total > width or any(size < 1 for size in sizes.values()):
        raise ValueError(
            f"slices {dict(sizes)} do not fit a width of {width}; each needs at least 1 dimension"
        )
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, total, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q.float()
    return dict(zip(sizes, basis.split(list(sizes.values()), dim=1), strict=True))


def project(b: Tensor, q: Tensor) -> Tensor:
    """Project an output factor on a slice: ``Q Q^T B`` for ``B [d_out, r]``."""
    return q @ (q.T @ b)


def largest_cosine(q: Tensor, other: Tensor) -> float:
    """Return the largest cosine between two slices: 0 if orthogonal, 1 with a shared direction."""
    return float(torch.linalg.matrix_norm(q.T @ other, ord=2))
