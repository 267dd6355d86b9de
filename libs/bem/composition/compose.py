"""Composition of several missions' weight updates at one layer.

Each update is projected on its mission's slice; their sum is scaled into the trust region.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from bem.composition.subspaces import project
from bem.trust_region import LowRankDelta, trust_region_scale


def compose(
    deltas: Mapping[str, LowRankDelta],
    slices: Mapping[str, Tensor],
    tau: float,
    *,
    unscaled: Collection[str] = (),
) -> tuple[dict[str, LowRankDelta], float]:
    """Project each mission's update on its slice and scale the updates into the trust region.

    Args:
        deltas: ``{mission: update of this layer}``.
        slices: ``{mission: Q [d_out, k]}``.
        tau: Largest Frobenius norm of the sum of the updates.
        unscaled: Missions whose updates count in the norm and keep their size, such as safety:
            otherwise a caller could weaken it by large updates beside it.

    Returns:
        The updates to apply, and the factor in [0, 1] that scales all but the unscaled ones.

    Raises:
        KeyError: A mission has no slice.
    """
    projected = {
        mission: delta.with_output(project(delta.b, slices[mission]))
        for mission, delta in deltas.items()
    }
    factor = trust_region_scale(
        [delta for mission, delta in projected.items() if mission not in unscaled],
        tau,
        unscaled=[delta for mission, delta in projected.items() if mission in unscaled],
    )
    return {
        mission: delta if mission in unscaled else delta.scaled(factor)
        for mission, delta in projected.items()
    }, factor
