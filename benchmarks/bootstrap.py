"""Throughput of the BCa bootstrap against scipy, 10,000 paired items.

Run ``python -m benchmarks.bootstrap``.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from bem_fleet.stats.bootstrap import paired_bca
from bem_fleet.stats.samples import FloatArray

OUT = Path(__file__).resolve().parents[1] / "results"
ITEMS = RESAMPLES = 10_000
ROUNDS = 3
# Fastest batch size of scipy on this machine among 10, 100, 1,000 and all at once.
BATCH = 100


def mean_difference(mission: FloatArray, baseline: FloatArray, axis: int = -1) -> FloatArray:
    """Return the difference of means along ``axis``."""
    return np.asarray(mission.mean(axis) - baseline.mean(axis))


def mean_ratio(mission: FloatArray, baseline: FloatArray, axis: int = -1) -> FloatArray:
    """Return the ratio of means along ``axis``."""
    return np.asarray(mission.mean(axis) / baseline.mean(axis))


def mean(values: FloatArray, axis: int = -1) -> FloatArray:
    """Return the mean along ``axis``."""
    return np.asarray(values.mean(axis))


def draw_scores(kind: str) -> tuple[FloatArray, FloatArray]:
    """Return mission and baseline scores [ITEMS]."""
    rng = np.random.default_rng(5)
    if kind == "exact match":
        baseline = rng.random(ITEMS) < 0.5
        mission = np.where(rng.random(ITEMS) < 0.1, rng.random(ITEMS) < 0.6, baseline)
        return mission.astype(float), baseline.astype(float)
    return rng.beta(2.0, 2.0, ITEMS), rng.beta(1.9, 2.0, ITEMS)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time of a call in seconds and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def scipy_interval(mission: FloatArray, baseline: FloatArray, statistic: str) -> Any:
    """Return scipy's interval, called as documented for paired samples."""
    samples, called = {
        "difference": ((mission, baseline), mean_difference),
        "ratio": ((mission, baseline), mean_ratio),
        "difference, subtracted first": ((mission - baseline,), mean),
    }[statistic]
    return scipy.stats.bootstrap(
        samples,
        called,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="BCa",
        rng=1,
    )


def compare(kind: str, statistic: str) -> dict[str, Any]:
    """Time both implementations in turn; return medians and the distance of the bounds."""
    mission, baseline = draw_scores(kind)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        took, interval = timed(
            lambda: paired_bca(
                mission,
                baseline,
                statistic="ratio" if statistic == "ratio" else "difference",
                resamples=RESAMPLES,
            )
        )
        ours.append(took)
        took, reference = timed(lambda: scipy_interval(mission, baseline, statistic))
        theirs.append(took)
    bounds, error = reference.confidence_interval, float(reference.standard_error)
    pairs = zip(ours, theirs, strict=True)
    return {
        "scores": kind,
        "statistic": statistic,
        "ours_s": round(statistics.median(ours), 4),
        "scipy_s": round(statistics.median(theirs), 3),
        "times_faster": round(statistics.median(b / a for a, b in pairs), 1),
        "bounds_apart_in_standard_errors": round(
            max(abs(interval.low - bounds.low), abs(interval.high - bounds.high)) / error, 3
        ),
    }


def main() -> None:
    """Compare all kinds of scores and statistics, and write the report."""
    rows = [
        compare(kind, statistic)
        for kind in ("exact match", "continuous")
        for statistic in ("difference", "difference, subtracted first", "ratio")
    ]
    report = {
        "items": ITEMS,
        "resamples": RESAMPLES,
        "rounds": ROUNDS,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "rows": rows,
        "note": f"medians of paired rounds; scipy vectorised with its best batch here, {BATCH}",
        "command": "python -m benchmarks.bootstrap",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_bootstrap.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [
        "# Bootstrap throughput against scipy",
        "",
        f"BCa, {ITEMS:,} paired items, {RESAMPLES:,} resamples; {report['note']}.",
        "`python -m benchmarks.bootstrap`",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + " --- |" * len(rows[0]),
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows),
    ]
    (OUT / "bench_bootstrap.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
