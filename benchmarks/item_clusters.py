"""Coverage of intervals where items of one cluster succeed and fail together."""

from typing import Any

import numpy as np
from bem_fleet.stats.bootstrap import bca_interval
from bem_fleet.stats.clustered_share import clustered_share
from bem_fleet.stats.distribution import bootstrap_pairs
from bem_fleet.stats.samples import FloatArray

REPLICATIONS, RESAMPLES = 1_000, 1_000
CLUSTERS = (10, 20, 50, 100)
CORRELATIONS = (0.0, 0.2, 0.33)
_SHARE = 0.3
# Cluster sizes vary as those of the attacks do: most are small, a few have a tenth of the items.
_MEAN_SIZE, _SIZE_SPREAD = 6.0, 0.8


def measure_coverage() -> list[dict[str, Any]]:
    """Return the coverage of 95 % intervals of a share by number and correlation of clusters.

    ``by_cluster`` resamples whole clusters, ``by_item`` takes each item for a unit, and
    ``share`` is the interval of the gates on shares.
    """
    rows = []
    for clusters in CLUSTERS:
        for correlation in CORRELATIONS:
            rng = np.random.default_rng([23, clusters, round(100 * correlation)])
            covered = {"by_cluster": 0, "by_item": 0, "share": 0}
            for seed in range(REPLICATIONS):
                outcomes, names = _draw(rng, clusters, correlation)
                for method, (low, high) in _intervals(outcomes, names, seed).items():
                    covered[method] += low <= _SHARE <= high
            shares = {name: round(count / REPLICATIONS, 3) for name, count in covered.items()}
            rows.append({"clusters": clusters, "correlation": correlation, **shares})
            print(rows[-1], flush=True)
    return rows


def _draw(
    rng: np.random.Generator, clusters: int, correlation: float
) -> tuple[FloatArray, list[int]]:
    """Return outcomes 0 or 1 of mean ``_SHARE``, beta-binomial by cluster, and their clusters."""
    sizes = np.maximum(1, rng.lognormal(np.log(_MEAN_SIZE), _SIZE_SPREAD, clusters).astype(int))
    chances = np.full(clusters, _SHARE)
    if correlation:
        # The correlation of two outcomes of a beta-binomial cluster is 1 / (1 + a + b).
        total = 1 / correlation - 1
        chances = rng.beta(_SHARE * total, (1 - _SHARE) * total, clusters)
    names = np.repeat(np.arange(clusters), sizes)
    return (rng.random(len(names)) < chances[names]).astype(np.float64), names.tolist()


def _intervals(outcomes: FloatArray, names: list[int], seed: int) -> dict[str, tuple[float, float]]:
    zeros = np.zeros_like(outcomes)
    found: dict[str, tuple[float, float]] = {}
    for method, units in (("by_cluster", names), ("by_item", None)):
        drawn = bootstrap_pairs(
            outcomes, zeros, "difference", resamples=RESAMPLES, seed=seed, item_clusters=units
        )
        interval = bca_interval(drawn, 0.95, method)
        found[method] = interval.low, interval.high
    share = clustered_share(outcomes > 0, 0.5, item_clusters=names)
    return {**found, "share": (share.low, share.high)}
