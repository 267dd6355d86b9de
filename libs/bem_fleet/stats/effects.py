"""Effect sizes of paired scores, the power of a comparison, and the items that it needs."""

import math
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike
from scipy.special import gammaln
from scipy.stats import rankdata
from statsmodels.stats.power import TTestPower

from bem_fleet.stats.pvalues import Alternative
from bem_fleet.stats.samples import fraction, pairs

_SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


@dataclass(frozen=True)
class PairedEffect:
    """How large a paired difference is, apart from whether it is there.

    Attributes:
        difference: Mean of mission - baseline, in the score's unit.
        deviation: Standard deviation of the differences.
        d_z: Cohen's d_z, difference / deviation; NaN where nothing varies.
        hedges_g: d_z with Hedges' correction for few items.
        rank_biserial: Matched-pairs rank-biserial correlation, -1 to 1 (Kerby, 2014); 0 for
            all ties.
        wins: Share of items where the mission is above.
        losses: Share where it is below; the rest are ties.
    """

    difference: float
    deviation: float
    d_z: float
    hedges_g: float
    rank_biserial: float
    wins: float
    losses: float


def paired_effect(mission: ArrayLike, baseline: ArrayLike) -> PairedEffect:
    """Return the effect sizes of two arrays [n], n at least 2.

    Raises:
        InvalidScoresError: As of ``paired_bca``, or a single item.
    """
    left, right = pairs(mission, baseline)
    if len(left) < 2:
        raise InvalidScoresError("an effect size needs at least 2 items, this is 1")
    gains = left - right
    deviation = float(gains.std(ddof=1))
    d_z = float(gains.mean()) / deviation if deviation > 0 else math.nan
    half = (len(gains) - 1) / 2
    correction = math.exp(gammaln(half) - gammaln(half - 0.5)) / math.sqrt(half)
    moved = gains[gains != 0]
    ranks = rankdata(np.abs(moved))
    return PairedEffect(
        difference=float(gains.mean()),
        deviation=deviation,
        d_z=d_z,
        hedges_g=d_z * correction,
        rank_biserial=float((np.sign(moved) * ranks).sum() / ranks.sum()) if len(moved) else 0.0,
        wins=float((gains > 0).mean()),
        losses=float((gains < 0).mean()),
    )


def power(
    difference: float,
    deviation: float,
    items: int,
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> float:
    """Return the chance that ``items`` pairs show a true ``difference`` (paired t test).

    Args:
        difference: True mean of mission - baseline.
        deviation: Standard deviation of the differences, above 0; for exact match about the
            root of the share of items on which the two sides disagree.
        items: Pairs, at least 2.
        alpha: Level of the test.
        alternative: Side of the test.

    Raises:
        InvalidScoresError: A deviation that is not above 0, under 2 items, a level outside (0, 1).
    """
    if items < 2:
        raise InvalidScoresError(f"power needs at least 2 items, not {items}")
    effect = _effect(difference, deviation)
    level = fraction(alpha, "alpha")
    return float(TTestPower().power(effect, items, level, alternative=_SIDES[alternative]))


def needed_items(
    difference: float,
    deviation: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> int:
    """Return the pairs that show a true ``difference`` with the wanted power (paired t test).

    Raises:
        InvalidScoresError: As of ``power``, or a difference that the test's side can never show.
    """
    effect = _effect(difference, deviation)
    side = {"two-sided": effect != 0, "greater": effect > 0, "less": effect < 0}
    if not side[alternative]:
        raise InvalidScoresError(f"no number of items shows {difference:g} as {alternative}")
    found = TTestPower().solve_power(
        effect_size=effect,
        alpha=fraction(alpha, "alpha"),
        power=fraction(power, "power"),
        alternative=_SIDES[alternative],
    )
    return math.ceil(float(np.squeeze(found)))


def _effect(difference: float, deviation: float) -> float:
    if not (deviation > 0 and math.isfinite(deviation) and math.isfinite(difference)):
        raise InvalidScoresError(
            f"difference {difference}, deviation {deviation}: both must be finite, "
            "the deviation above 0"
        )
    return difference / deviation
