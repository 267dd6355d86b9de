"""Effect sizes of paired scores, power of a paired t test, and required sample sizes."""

import bisect
import math
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike
from scipy.special import gammaln
from scipy.stats import rankdata
from statsmodels.stats.power import TTestPower

from bem_fleet.stats.pvalues import Alternative
from bem_fleet.stats.samples import (
    differences,
    validate_choice,
    validate_fraction,
    validate_pairs,
)

_STATSMODELS_ALTERNATIVES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}
_MOST_ITEMS = 10**9


@dataclass(frozen=True)
class PairedEffect:
    """Effect sizes of a paired difference.

    Attributes:
        difference: Mean of mission - baseline, in the unit of the score.
        deviation: Standard deviation of the differences, with n - 1.
        d_z: Cohen's d_z, difference / deviation (Cohen, "Statistical Power Analysis", 1988); NaN
            where nothing varies.
        hedges_g: d_z with the exact small-sample correction of Hedges (Journal of Educational
            Statistics 6, 1981).
        rank_biserial: Matched-pairs rank-biserial correlation, -1 to 1 (Kerby, "The simple
            difference formula", Comprehensive Psychology 3, 2014); 0 for all ties.
        wins: Share of items on which the mission scores higher.
        losses: Share of items on which the mission scores lower; the rest are ties.
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
        InvalidScoresError: Lengths differ, scores are NaN or infinite, or fewer than 2 items.
    """
    left, right = validate_pairs(mission, baseline)
    if len(left) < 2:
        raise InvalidScoresError("items: an effect size needs at least 2, got 1")
    gains = differences(left, right)
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
    """Return the probability that a paired t test of ``items`` pairs detects ``difference``.

    Args:
        difference: True mean of mission - baseline.
        deviation: Standard deviation of the differences, above 0; for exact match it is about the
            square root of the share of items on which the two sides disagree.
        items: Number of pairs, at least 2.
        alpha: Level of the test, between 0 and 1.
        alternative: Side of the test.

    Raises:
        InvalidScoresError: The deviation is not above 0, there are fewer than 2 items, or alpha
            lies outside (0, 1).
    """
    if items < 2:
        raise InvalidScoresError(f"items: power needs at least 2, got {items}")
    effect = _standardized_effect(difference, deviation)
    level = validate_fraction(alpha, "alpha")
    validate_choice(alternative, Alternative, "alternative")
    return _paired_power(effect, items, level, alternative)


def required_items(
    difference: float,
    deviation: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> int:
    """Return the number of pairs, at least 2, at which a paired t test reaches a power.

    Args:
        difference: True mean of mission - baseline.
        deviation: Standard deviation of the differences, above 0.
        power: Probability of detecting the difference, between 0 and 1.
        alpha: Level of the test, between 0 and 1.
        alternative: Side of the test.

    Raises:
        InvalidScoresError: The deviation is not above 0, a level lies outside (0, 1), or the
            alternative points away from the difference.
    """
    effect = _standardized_effect(difference, deviation)
    validate_choice(alternative, Alternative, "alternative")
    side = {"two-sided": effect != 0, "greater": effect > 0, "less": effect < 0}
    if not side[alternative]:
        raise InvalidScoresError(
            f"effect size {difference:g} is not detectable with alternative={alternative}"
        )
    validate_fraction(power, "power")
    validate_fraction(alpha, "alpha")

    def reached(items: int) -> bool:
        return _paired_power(effect, items, alpha, alternative) >= power

    # The power grows with the number of pairs; statsmodels' root finder fails where two pairs
    # are already enough, and where it starts far from the solution.
    high = 2
    while not reached(high):
        if high > _MOST_ITEMS:
            raise InvalidScoresError(
                f"effect size {effect:g} needs more than {_MOST_ITEMS} pairs; raise the difference"
            )
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=2, key=reached)


def _paired_power(effect: float, items: int, alpha: float, alternative: Alternative) -> float:
    side = _STATSMODELS_ALTERNATIVES[alternative]
    found = float(TTestPower().power(effect, items, alpha, alternative=side))
    if math.isfinite(found):
        return found
    # The noncentral t distribution function underflows to NaN for a large noncentrality.
    in_direction = {"two-sided": True, "greater": effect > 0, "less": effect < 0}
    return float(in_direction[alternative])


def _standardized_effect(difference: float, deviation: float) -> float:
    if not (deviation > 0 and math.isfinite(deviation) and math.isfinite(difference)):
        raise InvalidScoresError(
            f"difference {difference}, deviation {deviation}: both must be finite, "
            "the deviation above 0"
        )
    return difference / deviation
