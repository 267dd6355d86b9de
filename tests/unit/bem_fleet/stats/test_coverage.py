"""Coverage and false discoveries by simulation, and the classes that are read off the table."""

import json
from pathlib import Path

import numpy as np
import pytest
from bem_fleet.stats.bootstrap import bca
from bem_fleet.stats.comparison import compare_pairs
from bem_fleet.stats.coverage import coverage_class
from bem_fleet.stats.fdr import benjamini_hochberg
from scipy.stats import bootstrap

TABLE = Path(__file__).resolve().parents[4] / "results/coverage.json"


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
def test_interval_covers_as_often_as_scipys(n: int) -> None:
    """On 300 samples of paired differences both miss alike, about as often as said."""
    rng = np.random.default_rng(n)
    ours = theirs = 0
    replications = 300
    for seed in range(replications):
        differences = rng.choice([-1.0, 0.0, 1.0], p=[0.10, 0.75, 0.15], size=n)
        found = bca(differences, resamples=1_000, seed=seed)
        reference = bootstrap((differences,), np.mean, n_resamples=999, method="BCa", rng=seed)
        bounds = reference.confidence_interval
        ours += found.low <= 0.05 <= found.high
        theirs += bounds.low <= 0.05 <= bounds.high

    error = np.sqrt(0.95 * 0.05 / replications)
    assert abs(ours - theirs) / replications <= 2 * error
    assert ours / replications >= 0.95 - 0.015 - 3 * error


@pytest.mark.slow
def test_false_discoveries_stay_below_five_percent() -> None:
    """Of 120 families of 20 null claims, about 5 % at most have anything rejected."""
    rng = np.random.default_rng(0)
    families = 120
    false = 0
    for family in range(families):
        baseline = rng.random((20, 200)) < 0.5
        mission = np.where(rng.random((20, 200)) < 0.2, ~baseline, baseline)
        p_values = {
            str(claim): compare_pairs(
                mission[claim], baseline[claim], resamples=2_000, seed=20 * family + claim
            ).p
            for claim in range(20)
        }
        false += any(found.rejected for found in benjamini_hochberg(p_values).values())

    assert false / families <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / families)


def test_measured_false_discoveries_hold_their_rate() -> None:
    """In the committed table no kind of null claims exceeds 5 %, seeds that differ included."""
    rows = json.loads(TABLE.read_text())["fdr"]

    assert len(rows) == 10
    for row in rows:
        assert row["fdr"] <= 0.05 + 2 * row["standard_error"], row


def test_classes_are_those_of_the_table() -> None:
    """Every simulated cell has the class that its measured coverage earns, or a worse one."""
    ranks = ["nominal", "short", "poor"]
    limits = {"nominal": 0.015, "short": 0.04, "poor": 1.0}
    for row in json.loads(TABLE.read_text())["ours"]:
        stated = coverage_class(row["n"], row["median_sample_skewness"])

        assert stated in ranks
        assert abs(row["coverage"] - 0.95) <= limits[stated] + 2 * row["standard_error"], row


def test_coverage_is_that_of_scipy_and_arch() -> None:
    """On the same samples of every kind and size, ours covers as often to Monte-Carlo error."""
    rows = json.loads(TABLE.read_text())["reference"]

    assert len(rows) == 9
    for row in rows:
        for other in ("scipy", "arch"):
            assert abs(row["ours"] - row[other]) <= 2.5 * row["standard_error"], row


def test_interval_over_seeds_covers_whatever_they_do() -> None:
    """Seeds that agree and seeds that lie far apart, few or many: never under 95 % by much."""
    rows = json.loads(TABLE.read_text())["seeds"]

    assert {row["seeds"] for row in rows} == {3, 5, 10}
    assert max(float(row["spread"]) for row in rows) >= 0.05
    for row in rows:
        assert row["coverage"] >= 0.95 - 2.5 * row["standard_error"], row


def test_class_needs_items_symmetry_and_seeds() -> None:
    """Few items, strong skew and few seeds each lower the class."""
    assert coverage_class(500, 0.2) == "nominal"
    assert coverage_class(500, 0.2, clusters=1) == "nominal"
    assert coverage_class(500, 0.2, clusters=5) == "nominal"
    assert coverage_class(500, 0.2, clusters=3) == "few-seeds"
    assert coverage_class(100, 0.2) == "short"
    assert coverage_class(500, 4.0) == "short"
    assert coverage_class(200, 6.0) == "poor"
    assert coverage_class(30, 0.0) == "poor"
    assert coverage_class(1, 0.0) == "degenerate"
    assert coverage_class(100, float("nan")) == "degenerate"
