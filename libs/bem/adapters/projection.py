"""Projection of adapter outputs outside a reserved subspace."""

from collections.abc import Mapping

from torch import Tensor

from bem.adapters.artifact import Factors

# An output factor whose share inside the reserved subspace is below this is rounding error.
_ROUNDING_SHARE = 1e-5


def project_outside(
    factors: Mapping[str, Factors], reserved: Mapping[str, Tensor]
) -> dict[str, Factors]:
    """Remove the reserved directions from output factors, ``(I - Q Q^T) B``.

    Args:
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``.
        reserved: ``{site path: Q [d_out, k]}`` with orthonormal columns; other sites stay as
            they are.
    """
    projected = {}
    for path, (a, b) in factors.items():
        q = reserved.get(path)
        if q is not None:
            b = b.to(q)  # noqa: PLW2901 - the same factor, where the basis is
            along = q.T @ b
            # An adapter that was trained outside the basis stays as it was, bit for bit:
            # subtracting rounding error would change its output.
            if _is_along(along, b):
                b = b - q @ along  # noqa: PLW2901
        projected[path] = (a, b)
    return projected


def is_outside(factors: Mapping[str, Factors], reserved: Mapping[str, Tensor]) -> bool:
    """Return whether the projection changes no factor; arguments as in ``project_outside``."""
    return not any(
        _is_along(q.T @ b.to(q), b)
        for path, (_, b) in factors.items()
        if (q := reserved.get(path)) is not None
    )


def _is_along(along: Tensor, b: Tensor) -> bool:
    return bool(along.norm() > _ROUNDING_SHARE * b.norm())
