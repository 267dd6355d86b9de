"""Simulated coverage, false discovery rates and false alarms of the statistics.

Run ``python -m benchmarks.coverage`` (some minutes). ``--part`` runs one of ours, reference, seeds,
fdr, power and sequential; the report keeps the other parts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from arch.bootstrap import IIDBootstrap
from bem_fleet.stats.bootstrap import Interval, bca, cluster_bca
from bem_fleet.stats.coverage import coverage_class
from bem_fleet.stats.distribution import bootstrap_mean
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.sequential import BettingTest
from scipy.stats import bootstrap

from benchmarks import false_discoveries, item_clusters

OUT = Path(__file__).resolve().parents[1] / "results"
SIZES = (50, 200, 500)
NOMINAL = 0.95
FULL_RUN = {"replications": 2_000, "resamples": 10_000}
REFERENCE_RUN = {"replications": 1_000, "resamples": 1_000}
STREAMS = 2_000
SEED_SPREADS = (0.0, 0.02, 0.05)


def exact_match(rng: np.random.Generator, n: int) -> FloatArray:
    """Return differences of exact match [n]: 15 % gained, 10 % lost; mean 0.05."""
    return rng.choice([-1.0, 0.0, 1.0], p=[0.10, 0.75, 0.15], size=n)


def exponential(rng: np.random.Generator, n: int) -> FloatArray:
    """Return exponential values [n] of mean 1, skewness 2."""
    return rng.exponential(size=n)


def lognormal(rng: np.random.Generator, n: int) -> FloatArray:
    """Return lognormal values [n] of log-deviation 1, skewness 6.2."""
    return rng.lognormal(size=n)


DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], FloatArray], float]] = {
    "paired EM differences": (exact_match, 0.05),
    "exponential": (exponential, 1.0),
    "lognormal": (lognormal, float(np.exp(0.5))),
}


def share_standard_error(share: float, replications: int) -> float:
    """Return the standard error of a simulated share."""
    return float(np.sqrt(max(share * (1 - share), 1e-9) / replications))


def measure_coverage() -> list[dict[str, Any]]:
    """Return the coverage of our interval at the default number of resamples."""
    rows = []
    for name, (make, mean) in DISTRIBUTIONS.items():
        for n in SIZES:
            rng = np.random.default_rng([17, n])
            covered, skews = 0, []
            for seed in range(FULL_RUN["replications"]):
                values = make(rng, n)
                found = bca(values, resamples=FULL_RUN["resamples"], seed=seed)
                covered += found.low <= mean <= found.high
                skews.append(bootstrap_mean(values, resamples=100, seed=0).skewness)
            share = covered / FULL_RUN["replications"]
            rows.append(
                {
                    "data": name,
                    "n": n,
                    "coverage": round(share, 4),
                    "standard_error": round(
                        share_standard_error(share, FULL_RUN["replications"]), 4
                    ),
                    "median_sample_skewness": round(float(np.median(np.abs(skews))), 2),
                    "class": coverage_class(n, float(np.median(skews))),
                }
            )
            print(rows[-1], flush=True)
    return rows


def scipy_interval(values: FloatArray, seed: int) -> tuple[float, float]:
    """Return scipy's BCa interval of the mean."""
    bounds = bootstrap(
        (values,), np.mean, n_resamples=REFERENCE_RUN["resamples"], method="BCa", rng=seed
    ).confidence_interval
    return float(bounds.low), float(bounds.high)


def arch_interval(values: FloatArray, seed: int) -> tuple[float, float]:
    """Return arch's BCa interval of the mean."""
    drawn = IIDBootstrap(values, seed=seed)
    bounds = drawn.conf_int(
        lambda sample: float(sample.mean()), reps=REFERENCE_RUN["resamples"], method="bca"
    )
    return float(bounds[0, 0]), float(bounds[1, 0])


def bca_bounds(values: FloatArray, seed: int) -> tuple[float, float]:
    """Return our BCa interval of the mean at the references' resamples."""
    found = bca(values, resamples=REFERENCE_RUN["resamples"], seed=seed)
    return found.low, found.high


def compare_references() -> list[dict[str, Any]]:
    """Return the coverage of our, scipy's and arch's intervals on the same samples."""
    methods = {"ours": bca_bounds, "scipy": scipy_interval, "arch": arch_interval}
    rows = []
    for name, (make, mean) in DISTRIBUTIONS.items():
        for n in SIZES:
            rng = np.random.default_rng([18, n])
            covered = dict.fromkeys(methods, 0)
            for seed in range(REFERENCE_RUN["replications"]):
                values = make(rng, n)
                for method, interval in methods.items():
                    low, high = interval(values, seed)
                    covered[method] += low <= mean <= high
            shares = {m: count / REFERENCE_RUN["replications"] for m, count in covered.items()}
            error = share_standard_error(shares["ours"], REFERENCE_RUN["replications"])
            rows.append({"data": name, "n": n, **shares, "standard_error": round(error, 4)})
            print(rows[-1], flush=True)
    return rows


def measure_cluster_coverage() -> list[dict[str, Any]]:
    """Return the coverage of the cluster interval by number and spread of the seeds."""
    rows = []
    replications = 1_000
    for seeds in (3, 5, 10):
        for between in SEED_SPREADS:
            rng = np.random.default_rng([19, seeds])
            covered = plain = 0
            for seed in range(replications):
                difference = _draw_crossed(rng, seeds, 300, between)
                zero = np.zeros_like(difference)
                found = cluster_bca(difference, zero, resamples=1_000, seed=seed)
                covered += found.low <= 0.05 <= found.high
                plain += _item_interval_covers(difference, seed)
            share = covered / replications
            rows.append(
                {
                    "seeds": seeds,
                    "items": 300,
                    "spread": between,
                    "coverage": round(share, 3),
                    "items_only": round(plain / replications, 3),
                    "standard_error": round(share_standard_error(share, replications), 4),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _draw_crossed(rng: np.random.Generator, seeds: int, items: int, between: float) -> FloatArray:
    """Return differences [seeds, items] of mean 0.05: of items, of seeds, and of cells."""
    shared = rng.normal(0, 0.25, items)
    return np.asarray(
        0.05 + shared + rng.normal(0, between, (seeds, 1)) + rng.normal(0, 0.25, (seeds, items))
    )


def _item_interval_covers(difference: FloatArray, seed: int) -> bool:
    found: Interval = bca(difference.mean(axis=0), resamples=1_000, seed=seed)
    return found.low <= 0.05 <= found.high


def measure_false_alarms() -> list[dict[str, Any]]:
    """Return the share of null streams rejected at any look, one look every 10 items."""
    size = (STREAMS, 10)
    kinds: dict[str, tuple[Callable[[np.random.Generator], FloatArray], float, float]] = {
        "paired EM differences": (
            lambda rng: rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=size),
            -1.0,
            0.0,
        ),
        "bounded scores": (lambda rng: rng.beta(0.5, 0.5, size), 0.0, 0.5),
        "error rate 0.5 %": (lambda rng: (rng.random(size) < 0.005).astype(float), 0.0, 0.005),
        "log-ratio of latency, t(2), winsorised": (
            lambda rng: np.clip(rng.standard_t(2, size), -1, 1),
            -1.0,
            0.0,
        ),
    }
    rows = []
    for name, (make, low, null) in kinds.items():
        rng = np.random.default_rng(21)
        tests = [
            BettingTest(null=null, low=low, greater=greater, streams=STREAMS)
            for greater in (True, False)
        ]
        for _ in range(1_000):
            block = make(rng)
            for test in tests:
                test.update(block)
        shares = [float(test.rejected.mean()) for test in tests]
        rows.append(
            {
                "stream": name,
                "false_alarms_greater": shares[0],
                "false_alarms_less": shares[1],
                "standard_error": round(share_standard_error(max(shares), STREAMS), 4),
            }
        )
        print(rows[-1], flush=True)
    return rows


PARTS: dict[str, Callable[[], Any]] = {
    "ours": measure_coverage,
    "reference": compare_references,
    "seeds": measure_cluster_coverage,
    "clusters": item_clusters.measure_coverage,
    "fdr": false_discoveries.measure_fdr,
    "power": false_discoveries.measure_power,
    "sequential": measure_false_alarms,
}
TITLES = {
    "ours": (
        "Coverage of the 95 % BCa interval of a mean (a paired difference is one)",
        (
            f"{FULL_RUN['replications']:,} samples, {FULL_RUN['resamples']:,} resamples each. "
            "The class is what `bem_fleet.stats.coverage` states for the median sample."
        ),
    ),
    "reference": (
        "The same against scipy and arch",
        (
            f"{REFERENCE_RUN['replications']:,} samples, the same for all three, "
            f"{REFERENCE_RUN['resamples']:,} resamples each."
        ),
    ),
    "seeds": (
        "Coverage of the cluster interval over seeds x items",
        (
            "1,000 samples, 1,000 resamples; items and cells have deviation 0.25, seeds the "
            "spread. `items_only` is the plain interval of the mean over seeds."
        ),
    ),
    "clusters": (
        "Coverage where items of a cluster succeed and fail together",
        (
            "1,000 samples, 1,000 resamples; outcomes of mean 0.3, beta-binomial by cluster, "
            "clusters of 6 items in the median and of unequal size. `by_cluster` is the interval "
            "of reports that name a unit, `share` that of the gates on shares, `by_item` takes "
            "each item for a unit. Standard error at most 0.016, at 95 % 0.007."
        ),
    ),
    "fdr": (
        "False discoveries with 20 null claims",
        (
            "Benjamini-Hochberg at 5 %, 200 items a claim, through "
            "`bem_fleet.acceptance.gate_evaluation.compare_metric`, which the validation "
            "service and the gates call. `fdr` is by the p that families take, the larger "
            "of the two beside it."
        ),
    ),
    "power": (
        "Power where the seeds agree",
        (
            "Alone: one claim at 5 %. In a family: of 20 claims half gain as much, the rest "
            "nothing, Benjamini-Hochberg at 5 %."
        ),
    ),
    "sequential": (
        "False alarms of the betting test under continuous monitoring",
        f"{STREAMS:,} streams of 10,000 items, a look after every 10, level 5 %.",
    ),
}


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = ["# Simulated error rates of intervals and tests", "", f"`{report['command']}`"]
    for part, (title, text) in TITLES.items():
        if part not in report:
            continue
        rows = report[part] if isinstance(report[part], list) else [report[part]]
        lines += ["", f"## {title}", "", text, "", "| " + " | ".join(rows[0]) + " |"]
        lines += ["|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the selected parts and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parts = parser.parse_args().part or list(PARTS)
    path = OUT / "coverage.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    report["command"] = "python -m benchmarks.coverage"
    report["nominal"] = NOMINAL
    for part in parts:
        began = time.perf_counter()
        report[part] = PARTS[part]()
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        OUT.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
        (OUT / "coverage.md").write_text(render_markdown(report))
    print(render_markdown(report))


if __name__ == "__main__":
    main()
