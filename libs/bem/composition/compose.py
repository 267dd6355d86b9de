"""Several missions' deltas at one layer, each in its slice, together within the trust region."""

from collections.abc import Mapping

from torch import Tensor

from bem.composition.subspaces import project
from bem.trust_region import Delta, limit


def compose(
    deltas: Mapping[str, Delta], slices: Mapping[str, Tensor], tau: float
) -> tuple[dict[str, Delta], float]:
    """Project each mission's delta on its slice and scale all of them into the trust region.

    Args:
        deltas: Mission to its delta at this layer.
        slices: Mission to its slice ``Q [d_out, k]``.
        tau: Largest Frobenius norm of the sum of the deltas.

    Returns:
        The deltas to apply and the factor in (0, 1] that they were scaled by.

    Raises:
        KeyError: A mission has no slice.
    """
    projected = {
        mission: delta.with_output(project(delta.b, slices[mission]))
        for mission, delta in deltas.items()
    }
    factor = limit(list(projected.values()), tau)
    return {mission: delta.scaled(factor) for mission, delta in projected.items()}, factor
