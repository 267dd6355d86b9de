"""P-values of paired comparisons: by inverting the BCa interval, and by sign flips.

Neither is enough for a family of claims, where what counts is the far tail. An inverted interval
promises too much where scores are discrete (few items differ), sign flips where differences are
skewed; each is sound where the other is not, so ``comparison`` takes the larger
(``results/coverage.md`` has all three).
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bem_fleet.stats.distribution import BootstrapDistribution, Statistic, of_clusters, of_pairs
from bem_fleet.stats.resampling import generator
from bem_fleet.stats.samples import FloatArray, pairs

Alternative = Literal["two-sided", "greater", "less"]

_FEW_VALUES = 64
_EXACT_ITEMS = 13
_CHUNK = 1 << 22


def p_by_inversion(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
    statistic: Statistic = "difference",
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the smallest level at which the BCa interval excludes ``null``.

    That is the p-value that agrees with the interval of the same seed: p < 0.05 exactly when the
    95 % interval excludes the null. It is never below 1 / (resamples + 1) before BCa's
    correction. A degenerate statistic has p = 1. Its level holds as well as the interval's
    coverage, which is not enough far in the tail.

    Args:
        mission: [n], or [seeds, items] for the cluster bootstrap.
        baseline: The same shape.
        null: Value under the null hypothesis; 1 is "no change" for a ratio.
        alternative: ``greater`` means that the mission is above the null.
        statistic: ``difference`` or ``ratio``.
        resamples: At least 100.
        seed: Of the resampling.

    Raises:
        InvalidScoresError: As of ``paired_bca``.
    """
    of = of_clusters if np.ndim(mission) == 2 else of_pairs
    return inverted(
        of(mission, baseline, statistic, resamples=resamples, seed=seed), null, alternative
    )


def inverted(found: BootstrapDistribution, null: float, alternative: Alternative) -> float:
    """Return the p-value of ``null`` by inversion of the BCa interval of ``found``."""
    if found.degenerate:
        return 1.0
    return _sided(found.level(null, ties=1), 1 - found.level(null, ties=0), alternative)


def p_by_permutation(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    null: float | None = None,
    alternative: Alternative = "two-sided",
    statistic: Statistic = "difference",
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the p-value of the paired sign-flip test of a null value.

    Under "no difference" each item's difference is as likely to have the other sign, and the test
    is exact. Another null is subtracted first (for a ratio r, mission - r baseline, as Fieller
    does, 1954); the test is then of symmetry about it, and its level is asymptotic.
    Up to 13 items that differ from the null, all flips are enumerated; beyond, ``resamples`` flips
    are drawn and p is (1 + as extreme) / (1 + resamples), which is valid at any number (Phipson
    and Smyth, 2010). All ties give p = 1.

    Args:
        mission: [n].
        baseline: [n], the same items.
        null: Value under the null hypothesis; None: no change (0, or 1 for a ratio).
        alternative: ``greater`` means that the mission is above the null.
        statistic: ``difference`` or ``ratio`` of means.
        resamples: Flips drawn where there are too many to enumerate.
        seed: Of the flips.

    Raises:
        InvalidScoresError: As of ``paired_bca``.
    """
    left, right = pairs(mission, baseline)
    differences = _from_null(left, right, statistic, null)
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    observed = differences.sum()
    exact = len(differences) <= _EXACT_ITEMS
    flipped = _all_flips(differences) if exact else _flips(differences, resamples, seed)
    slack = 1e-9 * np.abs(differences).sum()
    extra = 0 if exact else 1
    size = len(flipped) + extra
    above = (np.count_nonzero(flipped >= observed - slack) + extra) / size
    below = (np.count_nonzero(flipped <= observed + slack) + extra) / size
    return _sided(float(above), float(below), alternative)


def _from_null(
    left: FloatArray, right: FloatArray, statistic: Statistic, null: float | None
) -> FloatArray:
    """Return what each item adds to the distance from the null value, [n]."""
    if statistic == "ratio":
        return left - (1.0 if null is None else null) * right
    return left - right if null is None else left - right - null


def _sided(above: float, below: float, alternative: Alternative) -> float:
    if alternative == "greater":
        return above
    if alternative == "less":
        return below
    return min(1.0, 2 * min(above, below))


def _all_flips(differences: FloatArray) -> FloatArray:
    """Return the sums under all 2^n signs."""
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


def _flips(differences: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Return the sums under ``resamples`` random signs, [resamples]."""
    rng = generator(seed)
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    if len(sizes) <= _FEW_VALUES:
        ups = rng.binomial(counts, 0.5, size=(resamples, len(sizes)))
        return np.asarray((2 * ups - counts) @ sizes)
    n = len(differences)
    total = differences.sum()
    sums = np.empty(resamples)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, 256, size=(stop - start, (n + 7) // 8), dtype=np.uint8)
        signs = np.unpackbits(drawn, axis=1, count=n).astype(np.float32)
        sums[start:stop] = 2 * (signs @ differences.astype(np.float32)) - total
    return sums
