"""P-values of paired comparisons: BCa interval inversion and sign-flip permutation.

A family of claims depends on the far tail, where neither method is enough. Inversion is too
optimistic where scores are discrete and few items differ; sign flips are too optimistic where
differences are skewed. Each is sound where the other is not, so ``comparison`` takes the larger
(``results/coverage.md`` has the simulated error rates of all three).

Example of the sign-flip test: three items differ by 0.4, 0.3 and 0.2, all in favour of the mission.
Under "no difference" the 2^3 = 8 sign patterns are equally likely, and only the observed one has a
sum of 0.9 or more. The one-sided p-value is 1/8, the two-sided 1/4: three items can never be
significant at 5 %.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bem_fleet.stats.distribution import (
    BootstrapDistribution,
    Statistic,
    bootstrap_clusters,
    bootstrap_pairs,
)
from bem_fleet.stats.item_clusters import cluster_sums, number_clusters
from bem_fleet.stats.resampling import make_generator
from bem_fleet.stats.samples import (
    FloatArray,
    binary_scale,
    differences,
    validate_choice,
    validate_finite,
    validate_pairs,
)

Alternative = Literal["two-sided", "greater", "less"]

_MAX_DISTINCT = 64
_MAX_EXACT_ITEMS = 13
_CHUNK_SIGNS = 1 << 22


def inversion_p_value(
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

    This p-value agrees with the interval of the same seed: p < 0.05 exactly when the 95 % interval
    excludes the null. Before the BCa correction it is never below 1 / (resamples + 1). A
    degenerate statistic has p = 1. The level is as accurate as the coverage of the interval, which
    is not enough far in the tail.

    Args:
        mission: Scores of the candidate, [n], or [seeds, items] for the cluster bootstrap.
        baseline: Scores of the reference, in the same shape.
        null: Value under the null hypothesis; 1 is "no change" for a ratio.
        alternative: ``greater`` means that the mission is above the null.
        statistic: ``difference`` or ``ratio`` of means.
        resamples: Number of bootstrap resamples, at least 100.
        seed: Random seed of the resampling.

    Raises:
        InvalidScoresError: The conditions of ``bootstrap.paired_bca`` are not met.
    """
    bootstrap = bootstrap_clusters if np.ndim(mission) == 2 else bootstrap_pairs
    distribution = bootstrap(mission, baseline, statistic, resamples=resamples, seed=seed)
    return invert_interval(distribution, null, alternative)


def invert_interval(
    distribution: BootstrapDistribution, null: float, alternative: Alternative
) -> float:
    """Return the p-value of ``null`` by inversion of the BCa interval of a distribution.

    Raises:
        InvalidScoresError: ``null`` is not finite, or ``alternative`` is unknown.
    """
    validate_finite(null, "null")
    validate_choice(alternative, Alternative, "alternative")
    if distribution.degenerate:
        return 1.0
    return _p_value_of_sides(
        distribution.level(null, ties=1), 1 - distribution.level(null, ties=0), alternative
    )


def sign_flip_p_value(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    null: float | None = None,
    alternative: Alternative = "two-sided",
    statistic: Statistic = "difference",
    resamples: int = 10_000,
    seed: int = 0,
    item_clusters: Sequence[Hashable] | None = None,
) -> float:
    """Return the p-value of the paired sign-flip test of a null value.

    Under "no difference" the difference of each item is equally likely to have either sign, and the
    test is exact. Any other null value is subtracted first (for a ratio r, mission - r baseline, as
    in Fieller, JRSS B 16, 1954); the test is then of symmetry about it, with an asymptotic level.
    Up to 13 items that differ from the null, all sign patterns are enumerated. Beyond 13,
    ``resamples`` patterns are drawn and p = (1 + as extreme) / (1 + resamples), which is valid for
    any number of draws (Phipson and Smyth, "Permutation p-values should never be zero", Stat. Appl.
    Genet. Mol. Biol. 9, 2010). All ties give p = 1.

    Args:
        mission: Scores of the candidate, [n].
        baseline: Scores of the reference on the same items, [n].
        null: Value under the null hypothesis; None means no change (0, or 1 for a ratio).
        alternative: ``greater`` means that the mission is above the null.
        statistic: ``difference`` or ``ratio`` of means.
        resamples: Number of random sign patterns where there are too many to enumerate.
        seed: Random seed of the sign patterns.
        item_clusters: Cluster of each item, [n]; the signs of a cluster's items flip together.

    Raises:
        InvalidScoresError: The conditions of ``bootstrap.paired_bca`` are not met.
    """
    left, right = validate_pairs(mission, baseline)
    validate_choice(alternative, Alternative, "alternative")
    distances = _distances_from_null(left, right, statistic, null)
    if item_clusters is not None:
        distances = cluster_sums(distances, number_clusters(item_clusters, len(distances)))
    distances = distances[distances != 0]
    if len(distances) == 0:
        return 1.0
    # The test is invariant to scale, and float32 sums are not beyond 1e38.
    distances = distances / binary_scale(distances)
    observed = distances.sum()
    exact = len(distances) <= _MAX_EXACT_ITEMS
    flipped = _all_flip_sums(distances) if exact else _random_flip_sums(distances, resamples, seed)
    # Sums of equal terms in another order differ in the last bits; they count as ties.
    slack = 1e-9 * np.abs(distances).sum()
    extra = 0 if exact else 1
    size = len(flipped) + extra
    above = (np.count_nonzero(flipped >= observed - slack) + extra) / size
    below = (np.count_nonzero(flipped <= observed + slack) + extra) / size
    return _p_value_of_sides(float(above), float(below), alternative)


def _distances_from_null(
    left: FloatArray, right: FloatArray, statistic: Statistic, null: float | None
) -> FloatArray:
    """Return the contribution of each item to the distance from the null value, [n].

    Raises:
        InvalidScoresError: ``null`` is not finite, or ``statistic`` is unknown.
    """
    validate_choice(statistic, Statistic, "statistic")
    if statistic == "ratio":
        return differences(left, (1.0 if null is None else validate_finite(null, "null")) * right)
    if null is None:
        return differences(left, right)
    return differences(left, right + validate_finite(null, "null"))


def _p_value_of_sides(above: float, below: float, alternative: Alternative) -> float:
    if alternative == "greater":
        return above
    if alternative == "less":
        return below
    return min(1.0, 2 * min(above, below))


def _all_flip_sums(distances: FloatArray) -> FloatArray:
    """Return the sums under all 2^n sign patterns, [2^n]."""
    sums = np.zeros(1)
    for distance in distances:
        sums = np.concatenate([sums + distance, sums - distance])
    return sums


def _random_flip_sums(distances: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Return the sums under random sign patterns, [resamples].

    Few distinct sizes (exact match, rates) need only a binomial count of positive signs per size.
    Otherwise each random bit is one sign, and a matrix product per chunk adds them up: with the
    signs as 0 and 1, sum = 2 * (signs @ distances) - total.
    """
    rng = make_generator(seed)
    sizes, counts = np.unique(np.abs(distances), return_counts=True)
    if len(sizes) <= _MAX_DISTINCT:
        ups = rng.binomial(counts, 0.5, size=(resamples, len(sizes)))
        return np.asarray((2 * ups - counts) @ sizes)
    n = len(distances)
    total = distances.sum()
    sums = np.empty(resamples)
    rows = max(1, _CHUNK_SIGNS // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, 256, size=(stop - start, (n + 7) // 8), dtype=np.uint8)
        signs = np.unpackbits(drawn, axis=1, count=n).astype(np.float32)
        sums[start:stop] = 2 * (signs @ distances.astype(np.float32)) - total
    return sums
