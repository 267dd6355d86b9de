"""Orthogonal subspaces (slices) of a layer's output space, one for each mission.

This makes the idea of O-LoRA (arXiv 2310.14152) exact: slices are disjoint columns of one
orthonormal basis, and every update is projected on its mission's slice. Updates of two missions
are then orthogonal, so that neither changes the output component of the other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

# Singular values below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-6


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


def column_span(b: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of ``b [d_out, r]``, with as many as its rank."""
    left, singular, _ = torch.linalg.svd(b, full_matrices=False)
    largest = float(singular.max()) if singular.numel() else 0.0
    return left[:, singular > _RANK_TOLERANCE * largest] if largest else left[:, :0]


def successive_slices(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each mission the directions that its output factor adds to those before it.

    The first mission's slice is the span of its factor, so that projecting on it changes nothing;
    each further one is what remains of its span outside all slices before it (Gram-Schmidt).

    Args:
        factors: ``{mission: B [d_out, r]}`` in the order of precedence.

    Returns:
        ``{mission: Q [d_out, k]}`` with ``Q^T Q = I``, ``Q_m^T Q_n = 0`` and k at most r.
    """
    slices: dict[str, Tensor] = {}
    taken: Tensor | None = None
    for mission, b in factors.items():
        own = b.double()
        left = own if taken is None else own - project(own, taken)
        if taken is not None:  # twice is enough (Giraud 2005)
            left = left - project(left, taken)
        # What rounding leaves of a factor inside the earlier slices is no direction of its own.
        if float(left.norm()) <= _RANK_TOLERANCE * float(own.norm()):
            left = left[:, :0]
        added = column_span(left)
        slices[mission] = added.float()
        taken = added if taken is None else torch.cat([taken, added], dim=1)
    return slices
