"""Reserved safety subspace of a layer's output space, in which only the safety adapter writes.

This makes the gradient-projection idea of InfLoRA (arXiv 2404.00228) exact: the basis ``Q`` is
orthonormal, the safety adapter's output factor is ``B = Q C``, and every other update is projected
on the complement, ``(I - Q Q^T) B``. Removing the safety adapter therefore restores exactly what
the other adapters compute.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bem.composition.subspaces import allocate_slices, column_span, largest_cosine, project

REFERENCE_WIDTH = 576
"""Width of the packaged base model, for which basis sizes are stated."""


def basis_size(width: int, size: int = 64) -> int:
    """Scale a basis size to a layer's width: ``size`` of 576 dimensions, a ninth by default.

    Args:
        width: Output width d_out of the layer.
        size: Dimensions for a width of 576, the packaged model's.

    Raises:
        ValueError: ``size`` is not in [1, 576].
    """
    if not 1 <= size <= REFERENCE_WIDTH:
        raise ValueError(
            f"size: {size} is out of range; a basis has 1 to {REFERENCE_WIDTH} dimensions"
        )
    return max(1, round(size * width / REFERENCE_WIDTH))


def reserve_basis(
    width: int, size: int, *, seed: int, orthogonal_to: Sequence[Tensor] = ()
) -> Tensor:
    """Return an orthonormal basis ``Q [d_out, size]`` that only the safety adapter may use.

    Args:
        width: Output width d_out of the layer.
        size: Dimensions of the basis.
        seed: Random seed of the basis.
        orthogonal_to: Output factors ``B [d_out, r]`` of adapters that were trained before the
            basis existed. The basis is directions from the complement of their span, so projecting
            them later changes nothing.

    Raises:
        ValueError: The complement has fewer than ``size`` dimensions.
    """
    taken = torch.zeros(width, 0, dtype=torch.float64)
    if orthogonal_to:
        taken = column_span(torch.cat([b.double() for b in orthogonal_to], dim=1))
    if taken.shape[1] + size > width:
        raise ValueError(
            f"size: a basis of {size} does not fit beside {taken.shape[1]} dimensions in use; the "
            f"layer has {width}"
        )
    return _outside(taken, size, seed)


def slices_outside(q: Tensor, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Return an orthonormal slice outside the reserved basis for each mission.

    Args:
        q: Reserved basis ``[d_out, k]``.
        sizes: ``{mission: dimensions}``; together with ``k`` at most d_out.
        seed: Random seed of the slices.

    Returns:
        ``{mission: Q_m [d_out, k_m]}``, orthogonal to each other and to ``q``.

    Raises:
        ValueError: A size is below 1, or the sizes exceed the width outside the basis.
    """
    allocate_slices(q.shape[0] - q.shape[1], sizes)  # raises if they do not fit
    slices = _outside(q.double(), sum(sizes.values()), seed)
    return dict(zip(sizes, slices.split(list(sizes.values()), dim=1), strict=True))


def project_out(b: Tensor, q: Tensor) -> Tensor:
    """Remove the reserved directions from an output factor: ``(I - Q Q^T) B``."""
    return b - project(b, q)


def orthogonality(q: Tensor, b: Tensor) -> float:
    """Return 1 minus the largest cosine between the basis and the span of ``b [d_out, r]``.

    It is 1 if both are orthogonal and 0 if they share a direction; a factor of zero is orthogonal.
    """
    spanned = column_span(b.double())
    if not spanned.shape[1]:
        return 1.0
    return 1.0 - min(1.0, largest_cosine(q.double(), spanned))


def _outside(taken: Tensor, size: int, seed: int) -> Tensor:
    """Return ``size`` random orthonormal directions outside the orthonormal ``taken``, float32."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(taken.shape[0], size, generator=generator, dtype=torch.float64)
    # Twice is enough (Giraud 2005): the second pass removes the rounding error of the first.
    for _ in range(2):
        directions = torch.linalg.qr(directions - taken @ (taken.T @ directions)).Q
    return directions.float()
