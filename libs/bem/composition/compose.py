"""Composition of several missions' weight updates at one layer.

Each update is projected on its mission's slice; their sum is scaled into the trust region.
"""

from collections.abc import Mapping

from torch import Tensor

from bem.composition.subspaces import project
from bem.trust_region import LowRankDelta, trust_region_scale


def compose(
    deltas: Mapping[str, LowRankDelta], slices: Mapping[str, Tensor], tau: float
) -> tuple[dict[str, LowRankDelta], float]:
    """Project each mission's update on its slice and scale all updates into the trust region.

    Args:
        deltas: ``{mission: update of this layer}``.
        slices: ``{mission: Q [d_out, k]}``.
        tau: Largest Frobenius norm of the sum of the updates.

    Returns:
        The updates to apply, and the factor in (0, 1] that scales all of them.

    Raises:
        KeyError: A mission has no slice.
    """
    projected = {
        mission: delta.with_output(project(delta.b, slices[mission]))
        for mission, delta in deltas.items()
    }
    factor = trust_region_scale(list(projected.values()), tau)
    return {mission: delta.scaled(factor) for mission, delta in projected.items()}, factor
