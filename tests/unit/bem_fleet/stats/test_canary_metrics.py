"""Gains of a pair on each scale, and the tail's running threshold."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.canary_gate import CanaryGate, CanaryGateSpec, CanaryVerdict
from bem_fleet.stats.canary_metrics import TAIL_HISTORY, CanaryMetric, TailThreshold

TAIL = CanaryMetric(
    "p95", better="lower", scale="tail", source="latency", quantile=0.95, ratio=1.25
)


def test_a_tail_is_measured_by_stable_before_the_pair() -> None:
    """The first pairs only set the threshold; later ones are slow or not on each side."""
    threshold = TailThreshold(TAIL, 1)
    first = threshold.gains(np.full((1, 20), 9.0), np.linspace(0.1, 2.0, 20)[None])
    # Stable's p95 is the 19th of 20 values, 1.9; slow is more than 2.375.
    later = threshold.gains(np.array([[2.3, 2.4, 9.0, 1.0]]), np.array([[1.0, 1.0, 9.0, 2.4]]))

    assert np.isnan(first).all()
    assert later.tolist() == [[0, -1, 0, 1]]


def test_pairs_without_both_latencies_are_no_evidence() -> None:
    """They neither count nor teach."""
    threshold = TailThreshold(TAIL, 1)
    nothing = np.full((1, 50), np.nan)
    threshold.gains(nothing, nothing)
    early = threshold.gains(np.ones((1, 20)), np.ones((1, 20)))
    mixed = threshold.gains(np.array([[5.0, np.nan]]), np.array([[1.0, np.nan]]))

    assert np.isnan(early).all()
    assert mixed[0, 0] == -1
    assert np.isnan(mixed[0, 1])


def test_the_threshold_follows_the_traffic() -> None:
    """Traffic that has become slower on both tracks is no harm after the history has passed."""
    threshold = TailThreshold(TAIL, 1)
    threshold.gains(np.ones((1, 100)), np.ones((1, 100)))
    both = threshold.gains(np.full((1, TAIL_HISTORY), 8.0), np.full((1, TAIL_HISTORY), 8.0))
    after = threshold.gains(np.full((1, 10), 9.0), np.full((1, 10), 8.0))

    assert not both.any()
    assert not after.any()


@pytest.mark.parametrize(("period", "factor"), [(10, 100.0), (8, 3.0), (12, 20.0)])
def test_the_tail_ends_a_canary_that_the_mean_accepts(period: int, factor: float) -> None:
    """A few requests many times slower hide in a winsorised mean and show in the tail."""
    rng = np.random.default_rng(period)
    stable = rng.lognormal(0, 0.3, 2_000)
    canary = stable * np.where(np.arange(2_000) % period == 0, factor, 1.0)
    mean = CanaryMetric(
        "latency",
        better="lower",
        scale="log_ratio",
        bound=1.4,
        required_gain=-0.2,
        tolerated_loss=0.2,
    )
    tail = CanaryMetric(
        "p95",
        better="lower",
        scale="tail",
        source="latency",
        ratio=1.25,
        required_gain=-0.02,
        tolerated_loss=0.02,
    )
    verdicts = []
    for metric in (mean, tail):
        gate = CanaryGate(CanaryGateSpec((metric,)))
        gate.observe({"latency": canary}, {"latency": stable})
        verdicts.append(gate.verdicts[0])

    assert verdicts == [CanaryVerdict.PROMOTE, CanaryVerdict.ROLLBACK]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": "tail"}, "a tail is better lower"),
        ({"scale": "tail", "better": "lower", "ratio": 0.0}, "ratio 0"),
        ({"quantile": 1.0}, "a.quantile is 1"),
    ],
)
def test_options_of_a_tail_are_checked(options: dict[str, object], named: str) -> None:
    """A threshold of nothing, or a tail that is better high, is a mistake."""
    with pytest.raises(InvalidScoresError, match=named):
        CanaryMetric("a", **options)  # type: ignore[arg-type]
