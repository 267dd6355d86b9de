"""Verdicts in both directions, and what keeps a gate shut."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.acceptance.catalogue import GateRule, MetricDefinition
from bem_fleet.acceptance.gate_evaluation import (
    Measurement,
    compare_metric,
    evaluate_gate,
    measure_gate,
    weakest_measurement,
)
from bem_fleet.acceptance.score_report import PairedScores, validate_paired_scores
from scipy.stats import binomtest

from tests.support.synthetic_reports import paired_scores

F1 = MetricDefinition("f1", "token F1", 0, 1)
GAIN = GateRule(
    id="X.gain",
    metrics=("f1",),
    statistic="difference",
    direction="higher",
    target=0.015,
    margin=0.0,
    min_items=200,
    min_seeds=3,
)
RESAMPLES = 2000


def scores(gain: float, **shape: Any) -> PairedScores:
    """Return paired scores with a known gain."""
    made = paired_scores(gain, **shape)
    return validate_paired_scores(F1, made["mission"], made["baseline"])


def measure(gate: GateRule, given: PairedScores) -> Measurement:
    """Measure the one metric of a gate."""
    return measure_gate(gate, {"f1": given}, resamples=RESAMPLES)[0]


@pytest.mark.parametrize(
    ("gain", "passes", "why"),
    [
        (0.03, True, ""),
        (0.015, True, ""),
        (0.012, False, "does not reach 0.015"),
        (-0.03, False, "does not clear 0"),
    ],
)
def test_gain_must_reach_target_and_clear_margin(gain: float, passes: bool, why: str) -> None:
    """A gain passes at its target, fails short of it, and fails on the wrong side of zero."""
    one = measure(GAIN, scores(gain))
    verdict = evaluate_gate(GAIN, [one], one.p)

    assert one.figure == pytest.approx(gain)
    assert (verdict.status == "pass") is passes
    assert why in "; ".join(verdict.reasons)


@pytest.mark.parametrize(("gain", "passes"), [(-0.2, True), (-0.1, False), (0.1, False)])
def test_fewer_is_better_where_the_gate_says_so(gain: float, passes: bool) -> None:
    """A ratio of 0.6 clears a target of 0.7, ratios of 0.8 and 1.2 do not."""
    gate = replace(GAIN, statistic="ratio", direction="lower", target=0.7, margin=1.0)
    one = measure(gate, scores(gain))

    assert one.figure == pytest.approx(1 + gain / 0.5, abs=0.02)
    assert (evaluate_gate(gate, [one], one.p).status == "pass") is passes


def test_no_worse_can_be_shown() -> None:
    """A margin below zero asks for non-inferiority: no change passes, a loss beyond it fails."""
    gate = replace(GAIN, target=-0.01, margin=-0.01)
    same, worse = measure(gate, scores(0.0)), measure(gate, scores(-0.02))

    assert evaluate_gate(gate, [same], same.p).status == "pass"
    assert evaluate_gate(gate, [worse], worse.p).status == "fail"


def test_p_agrees_with_the_interval_and_knows_its_side() -> None:
    """P is below 0.05 exactly when the interval clears the margin; a loss is no gain."""
    for gain in (-0.05, -0.004, 0.0, 0.002, 0.004, 0.05):
        one = measure(GAIN, scores(gain, seeds=1, items=60))
        assert one.low is not None
        assert (one.p < 0.05) == (one.low > 0)
    assert measure(GAIN, scores(-0.05)).p == 1


def test_too_few_items_or_seeds_keep_a_gate_shut() -> None:
    """A large gain on too little evidence fails, and the verdict says what is missing."""
    few_items, few_seeds = measure(GAIN, scores(0.1, items=60)), measure(GAIN, scores(0.1, seeds=2))

    assert evaluate_gate(GAIN, [few_items], 0.0).reasons == ("f1: 60 items of 200",)
    assert evaluate_gate(GAIN, [few_seeds], 0.0).reasons == ("f1: 2 seeds of 3",)


def test_adjusted_p_keeps_a_gate_shut() -> None:
    """What the family does not allow does not pass, whatever the interval says."""
    one = measure(GAIN, scores(0.03))

    assert evaluate_gate(GAIN, [one], 0.05).status == "pass"
    assert evaluate_gate(GAIN, [one], 0.051).reasons == ("adjusted p 0.051 exceeds 0.05",)


def test_gain_without_variation_never_passes() -> None:
    """A gain that is the same on every item has no interval."""
    baseline = np.full((3, 400), 0.5)
    one = measure(GAIN, PairedScores(baseline + 0.1, baseline))

    assert (one.low, one.high, one.p, one.coverage) == (None, None, 1.0, "degenerate")
    assert "no interval" in "; ".join(evaluate_gate(GAIN, [one], one.p).reasons)


def test_all_metrics_must_clear() -> None:
    """The weakest of several metrics decides and is shown."""
    gate = replace(GAIN, metrics=("exact_match", "f1"))
    both = measure_gate(
        gate, {"exact_match": scores(0.05), "f1": scores(-0.05)}, resamples=RESAMPLES
    )
    shown = weakest_measurement(gate, both)

    assert shown.metric == "f1"
    assert evaluate_gate(gate, both, shown.p).status == "fail"


def test_share_has_an_exact_interval_even_at_one() -> None:
    """Always within the bound: the interval is Clopper and Pearson's, and it can pass."""
    gate = replace(
        GAIN, statistic="share", at_most=3.0, target=1.0, margin=0.99, min_items=400, min_seeds=1
    )
    one = measure(gate, PairedScores(np.full((1, 400), 3.0), None))
    expected = binomtest(400, 400).proportion_ci(0.95, method="exact")

    assert (one.figure, one.high) == (1.0, 1.0)
    assert one.low == pytest.approx(expected.low)
    assert evaluate_gate(gate, [one], one.p).status == "pass"


NO_LOSS = replace(GAIN, target=-0.01, margin=-0.01, min_baseline=0.3)


def test_identical_mission_loses_nothing_and_gains_nothing() -> None:
    """Equal scores pass a gate that no loss is shown by, and no gate on a gain."""
    same = np.tile((np.arange(400) % 2).astype(float), (3, 1))
    kept, gained = (measure(gate, PairedScores(same, same)) for gate in (NO_LOSS, GAIN))

    assert evaluate_gate(NO_LOSS, [kept], kept.p).status == "pass"
    assert evaluate_gate(GAIN, [gained], gained.p).status == "fail"


def test_suite_that_the_baseline_fails_shows_no_loss() -> None:
    """Where the baseline answers 5 % rightly there is nothing to lose: not a pass."""
    baseline = np.zeros((3, 400))
    baseline[:, :20] = 1
    one = measure(NO_LOSS, PairedScores(baseline, baseline))

    assert evaluate_gate(NO_LOSS, [one], one.p).reasons == (
        "f1: the baseline scores 0.050 of 0.3: the suite cannot show a loss",
    )


def test_bound_that_resampling_noise_decides_is_no_pass() -> None:
    """A bound on the right side, nearer to the margin than its own noise allows."""
    one = replace(measure(GAIN, scores(0.03)), settled=False)

    assert "too near to 0 to tell it" in evaluate_gate(GAIN, [one], one.p).reasons[0]


@pytest.mark.parametrize("statistic", ["difference", "share"])
def test_gate_with_clusters_needs_enough_of_them(statistic: Any) -> None:
    """Fewer than 20 families, or a report that names none, are not a pass."""
    gate = replace(GAIN, unit="family", target=0.0, margin=0.0, statistic=statistic)
    if statistic == "share":
        gate = replace(gate, at_least=0.0)
    given = scores(0.05)
    few = tuple(str(number % 12) for number in range(given.mission.shape[1]))
    many = tuple(str(number % 40) for number in range(given.mission.shape[1]))

    for clusters, why in ((few, "12 clusters of 20, the unit is family"), (many, "")):
        one = measure(gate, replace(given, clusters=clusters, unit="family"))
        reasons = evaluate_gate(gate, [one], 0.0).reasons
        assert reasons == ((f"f1: {why}",) if why else ())
    one = measure(gate, given)
    assert evaluate_gate(gate, [one], 0.0).reasons == (
        "f1: the report's unit is item; this gate's is family",
    )


def test_share_counts_an_item_only_if_all_seeds_agree() -> None:
    """Seeds on the same items are no further evidence: the worst of them counts."""
    mission = np.zeros((2, 100))
    mission[0, :10] = mission[1, 5:20] = 1.0
    share: dict[str, Any] = {"statistic": "share", "at_least": 1.0, "min_items": 2, "min_seeds": 1}
    high = replace(GAIN, target=1.0, margin=0.9, **share)
    low = replace(GAIN, direction="lower", target=0.05, margin=0.05, **share)

    assert measure(high, PairedScores(mission, None)).figure == 0.05
    assert measure(low, PairedScores(mission, None)).figure == 0.2


def test_mean_is_judged_against_its_margin() -> None:
    """A gate on the mission alone needs no baseline."""
    gate = replace(GAIN, statistic="mean", direction="lower", target=0.55, margin=0.55)
    one = measure(gate, PairedScores(scores(0.0).mission, None))

    assert one.figure == pytest.approx(0.5, abs=0.01)
    assert evaluate_gate(gate, [one], one.p).status == "pass"


def test_comparison_without_baseline_is_refused() -> None:
    """A difference needs two sides."""
    with pytest.raises(InvalidScoresError, match="f1: a difference needs baseline"):
        compare_metric("f1", PairedScores(np.zeros((1, 5)), None), "difference", 0.0)
