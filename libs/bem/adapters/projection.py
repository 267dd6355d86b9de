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
            if along.norm() > _ROUNDING_SHARE * b.norm():
                b = b - q @ along  # noqa: PLW2901
        projected[path] = (a, b)
    return projected
