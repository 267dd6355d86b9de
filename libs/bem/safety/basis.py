"""The reserved basis of a layer's output space, in which only the safety adapter writes.

The gradient-projection idea of InfLoRA (arXiv 2404.00228) made exact: the basis ``Q`` is
orthonormal, the safety adapter's output factor is ``B = Q C``, and every other delta is
projected on the complement, ``(I - Q Q^T) B``.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bem.composition.subspaces import allocate, overlap, project

REFERENCE_WIDTH = 576
_LEAST_SINGULAR = 1e-6


def basis_size(width: int, size: int = 64) -> int:
    """Scale a basis' size to a layer's width: ``size`` of 576 dimensions, a ninth by default.

    Args:
        width: d_out of the layer.
        size: Dimensions at the packaged model's width of 576.

    Raises:
        ValueError: ``size`` is not in [1, 576].
    """
    if not 1 <= size <= REFERENCE_WIDTH:
        raise ValueError(f"a basis has 1 to {REFERENCE_WIDTH} dimensions, asked for {size}")
    return max(1, round(size * width / REFERENCE_WIDTH))


def reserve(width: int, size: int, *, seed: int, away_from: Sequence[Tensor] = ()) -> Tensor:
    """Return an orthonormal basis ``Q [d_out, size]`` for safety alone.

    Args:
        width: d_out of the layer.
        size: Its dimensions.
        seed: Of the basis.
        away_from: Output factors ``B [d_out, r]`` of adapters that were trained before there was
            a basis: it is laid in the complement of all they span.

    Raises:
        ValueError: The complement has fewer than ``size`` dimensions.
    """
    taken = torch.zeros(width, 0, dtype=torch.float64)
    if away_from:
        taken = span_of(torch.cat([b.double() for b in away_from], dim=1))
    if taken.shape[1] + size > width:
        raise ValueError(
            f"a basis of {size} does not fit beside {taken.shape[1]} dimensions in use of {width}"
        )
    return _outside(taken, size, seed)


def slices_outside(q: Tensor, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Give each mission an orthonormal slice outside the reserved basis.

    Args:
        q: The reserved basis ``[d_out, k]``.
        sizes: Mission to number of dimensions; with ``k`` at most d_out in all.
        seed: Of the slices.

    Returns:
        Mission to ``Q_m [d_out, k_m]``, orthogonal to each other and to ``q``.

    Raises:
        ValueError: The sizes do not fit.
    """
    allocate(q.shape[0] - q.shape[1], sizes)  # refuses what does not fit
    whole = _outside(q.double(), sum(sizes.values()), seed)
    return dict(zip(sizes, whole.split(list(sizes.values()), dim=1), strict=True))


def project_out(b: Tensor, q: Tensor) -> Tensor:
    """Remove the reserved directions from a delta's output factor: ``(I - Q Q^T) B``."""
    return b - project(b, q)


def orthogonality(q: Tensor, b: Tensor) -> float:
    """Return 1 less the largest cosine between the basis and what ``b [d_out, r]`` spans.

    1 is orthogonal, 0 shares a direction; a delta that is zero is orthogonal.
    """
    spanned = span_of(b.double())
    if not spanned.shape[1]:
        return 1.0
    return 1.0 - min(1.0, overlap(q.double(), spanned))


def span_of(b: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of ``b [d_out, r]``; narrower if they depend."""
    left, singular, _ = torch.linalg.svd(b, full_matrices=False)
    largest = float(singular.max()) if singular.numel() else 0.0
    return left[:, singular > _LEAST_SINGULAR * largest] if largest else left[:, :0]


def _outside(taken: Tensor, size: int, seed: int) -> Tensor:
    """Return ``size`` random orthonormal directions outside the orthonormal ``taken``, float32."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(taken.shape[0], size, generator=generator, dtype=torch.float64)
    # Twice is enough (Giraud 2005): the second pass removes the first one's rounding.
    for _ in range(2):
        drawn = torch.linalg.qr(drawn - taken @ (taken.T @ drawn)).Q
    return drawn.float()
