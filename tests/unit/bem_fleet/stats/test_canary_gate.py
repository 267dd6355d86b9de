"""The gate promotes what is shown, rolls back what harms, and holds the rest."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.canary_gate import CanaryGate, CanaryGateSpec, CanaryVerdict
from bem_fleet.stats.canary_metrics import CanaryMetric
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.tripwires import Tripwire

SPEC = CanaryGateSpec(
    metrics=(
        CanaryMetric("quality", futility_margin=0.02),
        CanaryMetric(
            "latency",
            better="lower",
            scale="log_ratio",
            required_gain=-math.log(1.10),
            tolerated_loss=math.log(1.05),
        ),
        CanaryMetric("violation", better="lower", required_gain=-0.01),
    ),
    tripwires=(Tripwire("error", events=5, window=20), Tripwire("kl")),
    max_items=6_000,
    look=50,
)
Side = dict[str, FloatArray]


def traffic(
    n: int, *, gain: float = 0.0, slower: float = 1.0, streams: int = 1, seed: int = 0
) -> tuple[Side, Side]:
    """Return canary and stable sides of ``n`` requests: one in ten answers differs."""
    rng = np.random.default_rng(seed)
    size = (streams, n)
    moved = rng.choice([-1, 0, 1], p=[0.05 - gain / 2, 0.9, 0.05 + gain / 2], size=size)
    stable = np.where(moved == 0, rng.random(size) < 0.5, moved < 0).astype(float)
    work = rng.lognormal(0, 0.5, size)
    return (
        {
            "quality": stable + moved,
            "latency": slower * work * rng.lognormal(0, 0.2, size),
            "violation": (rng.random(size) < 0.002).astype(float),
        },
        {
            "quality": stable,
            "latency": work * rng.lognormal(0, 0.2, size),
            "violation": (rng.random(size) < 0.002).astype(float),
        },
    )


def run(canary: Side, stable: Side, spec: CanaryGateSpec = SPEC) -> CanaryGate:
    """Feed the sides in blocks of 50 requests, looking after each."""
    streams, n = canary["quality"].shape
    gate = CanaryGate(spec, streams)
    for start in range(0, n, 50):
        part = slice(start, start + 50)
        gate.observe(
            {name: values[:, part] for name, values in canary.items()},
            {name: values[:, part] for name, values in stable.items()},
        )
    return gate


@pytest.mark.parametrize(
    ("gain", "slower", "verdict", "reason"),
    [
        (0.06, 1.0, CanaryVerdict.PROMOTE, "quality is shown"),
        (-0.06, 1.0, CanaryVerdict.ROLLBACK, "quality is worse"),
        (0.06, 1.2, CanaryVerdict.ROLLBACK, "latency is worse"),
        (0.0, 1.0, CanaryVerdict.INCONCLUSIVE, "quality gains too little"),
    ],
)
def test_verdict_follows_what_is_shown(
    gain: float, slower: float, verdict: CanaryVerdict, reason: str
) -> None:
    """A gain within the guards promotes, harm rolls back even beside a gain, no gain holds."""
    decision = run(*traffic(6_000, gain=gain, slower=slower)).decision()

    assert decision.verdict is verdict
    assert reason in decision.reasons
    assert 0 < decision.items <= 6_000
    assert set(decision.evidence) == {"quality", "latency", "violation"}


def test_errors_hold_over_all_looks() -> None:
    """Of 400 canaries that change nothing, looked at 80 times, few are promoted or rolled back."""
    verdicts = run(*traffic(4_000, streams=400, seed=3)).verdicts

    limit = 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
    assert verdicts.count(CanaryVerdict.PROMOTE) <= limit
    assert verdicts.count(CanaryVerdict.ROLLBACK) <= limit


def test_identical_sides_are_never_promoted() -> None:
    """Statistics without variation end inconclusive, not as a pass."""
    _, stable = traffic(6_000)

    decision = run(stable, stable).decision()

    assert decision.verdict is CanaryVerdict.INCONCLUSIVE
    assert decision.evidence["quality"].p_shown == 1


def test_the_end_of_the_budget_is_inconclusive() -> None:
    """What is open after ``max_items`` pairs is held, with what is missing as the reason."""
    decision = run(*traffic(100), CanaryGateSpec(SPEC.metrics, max_items=100)).decision()

    assert decision.verdict is CanaryVerdict.INCONCLUSIVE
    assert "quality is not shown yet" in decision.reasons


def test_a_final_decision_stays() -> None:
    """Good requests after a rollback change nothing."""
    gate = run(*traffic(2_000, gain=-0.08))
    before = gate.decision()
    gate.observe(*traffic(500, gain=0.09))

    assert gate.decision().verdict is before.verdict is CanaryVerdict.ROLLBACK
    assert gate.decision().items == before.items == gate.decided_at[0]


@pytest.mark.parametrize(
    ("wire", "hits", "verdict"),
    [
        ("error", [0, 5, 10, 15, 20], CanaryVerdict.CONTINUE),
        ("error", [0, 4, 8, 12, 19], CanaryVerdict.ROLLBACK),
        ("kl", [49], CanaryVerdict.ROLLBACK),
    ],
)
def test_tripwires_act_at_once(wire: str, hits: list[int], verdict: CanaryVerdict) -> None:
    """Too many events within a window roll back at the next look, statistics or not."""
    gate = CanaryGate(SPEC)
    events = np.zeros(50, bool)
    events[list(hits)] = True
    gate.observe(*traffic(50), {wire: events})

    assert gate.decision().verdict is verdict


def test_a_window_spans_two_looks() -> None:
    """Events on both sides of a look count together."""
    gate = CanaryGate(SPEC)
    early, late = np.zeros(30, bool), np.zeros(30, bool)
    early[-3:], late[:2] = True, True
    gate.observe(*traffic(30), {"error": early})
    assert gate.decision().verdict is CanaryVerdict.CONTINUE
    gate.observe(*traffic(30), {"error": late})

    assert gate.decision().reasons == ("tripwire error",)


def test_a_tripwire_of_a_metric_shares_its_alpha() -> None:
    """Of 400 canaries that break as often as stable, few trip, though all reach the limit."""
    metric = CanaryMetric("violation", better="lower", required_gain=-0.02)
    wire = Tripwire("violation", events=5, window=100, metric="violation")
    rng = np.random.default_rng(5)
    wires = (wire, replace(wire, metric=None))
    gates = [CanaryGate(CanaryGateSpec((metric,), (one,), max_items=4_000), 400) for one in wires]
    for _ in range(40):
        canary, stable = ((rng.random((400, 100)) < 0.03).astype(float) for _ in range(2))
        for gate in gates:
            gate.observe({"violation": canary}, {"violation": stable}, {"violation": canary > 0})
    within, outside = (gate.verdicts.count(CanaryVerdict.ROLLBACK) / 400 for gate in gates)

    assert outside > 0.8
    assert within <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_canary_that_yields_nan_is_rolled_back() -> None:
    """NaN is not an outlier to average over."""
    canary, stable = traffic(50)
    canary["quality"][0, 7] = math.nan
    gate = CanaryGate(SPEC)
    gate.observe(canary, stable)

    assert gate.decision().reasons == ("not a number",)


def test_input_that_breaks_the_bounds_is_refused() -> None:
    """Missing metrics, unequal sides, scores out of reach and empty specs are errors by name."""
    canary, stable = traffic(50)
    gate = CanaryGate(SPEC)

    with pytest.raises(InvalidScoresError, match="'violation' is missing"):
        gate.observe({k: v for k, v in canary.items() if k != "violation"}, stable)
    with pytest.raises(InvalidScoresError, match="the same requests"):
        gate.observe(canary, stable | {"quality": stable["quality"][:, :9]})
    with pytest.raises(InvalidScoresError, match="exceeds its bound of 1"):
        gate.observe(canary | {"quality": canary["quality"] * 5}, stable)
    with pytest.raises(InvalidScoresError, match="a log-ratio needs values above 0"):
        gate.observe(canary | {"latency": canary["latency"] * 0}, stable)
    with pytest.raises(InvalidScoresError, match="expected"):
        gate.observe(*traffic(50, streams=2))
    with pytest.raises(InvalidScoresError, match="at least one"):
        CanaryGate(CanaryGateSpec(()))
    with pytest.raises(InvalidScoresError, match="each name once"):
        CanaryGate(CanaryGateSpec((CanaryMetric("a"), CanaryMetric("a"))))
    with pytest.raises(InvalidScoresError, match="max_items: 0"):
        CanaryGate(CanaryGateSpec((CanaryMetric("a"),), max_items=0))
    with pytest.raises(InvalidScoresError, match="above 0"):
        CanaryGate(CanaryGateSpec((CanaryMetric("a", weight=0),)))
    with pytest.raises(InvalidScoresError, match="tripwires: unknown metrics"):
        CanaryGate(CanaryGateSpec((CanaryMetric("a"),), (Tripwire("w", metric="b"),)))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("better", "Higher", "a.better: 'Higher' is unknown; known: higher, lower"),
        ("scale", "log", "a.scale: 'log' is unknown"),
        ("bound", 0.0, "bound 0"),
        ("required_gain", float("nan"), "a.required_gain is nan"),
        ("tolerated_loss", -0.1, "tolerated_loss -0.1"),
    ],
)
def test_metric_options_are_not_guessed(field: str, value: object, named: str) -> None:
    """A misspelt direction would promote the harmful side; it is refused, as are bad numbers."""
    with pytest.raises(InvalidScoresError, match=named):
        CanaryMetric("a", **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 10, 64])
def test_how_pairs_are_cut_into_calls_changes_nothing(size: int) -> None:
    """A decision is the same bit for bit: looks are counted in pairs, not in calls."""
    spec = replace(SPEC, look=10)
    canary, stable = traffic(600, gain=-0.05, slower=1.05, seed=7)
    whole, parts = CanaryGate(spec), CanaryGate(spec)
    whole.observe(canary, stable)
    for start in range(0, 600, size):
        part = slice(start, start + size)
        parts.observe(
            {name: values[:, part] for name, values in canary.items()},
            {name: values[:, part] for name, values in stable.items()},
        )

    assert whole.decision() == parts.decision()


def test_a_harm_of_the_first_pairs_is_not_averaged_away() -> None:
    """A gate that sees all at once decides where one that saw them come would have."""
    metric = CanaryMetric(
        "latency",
        better="lower",
        scale="log_ratio",
        required_gain=-math.log(1.1),
        tolerated_loss=math.log(1.1),
    )
    gate = CanaryGate(CanaryGateSpec((metric,)))
    slower = np.where(np.arange(1_000) < 200, 1.9, 0.6)
    gate.observe({"latency": slower}, {"latency": np.ones(1_000)})

    assert gate.decision().verdict is CanaryVerdict.ROLLBACK
    assert gate.decision().items <= 200


def test_missing_pairs_are_no_evidence() -> None:
    """Equal values that are marked as missing show nothing, and the count says so."""
    metric = CanaryMetric("errors", better="lower", required_gain=-0.1)
    none, half = CanaryGate(CanaryGateSpec((metric,))), CanaryGate(CanaryGateSpec((metric,)))
    zeros = {"errors": np.zeros(500)}
    none.observe(zeros, zeros, missing={"errors": np.ones(500)})
    half.observe(zeros, zeros, missing={"errors": np.arange(500) % 2})

    assert none.decision().verdict is CanaryVerdict.CONTINUE
    assert none.decision().evidence["errors"].pairs == 0
    assert half.decision().verdict is CanaryVerdict.PROMOTE
    assert half.decision().evidence["errors"].pairs == half.decision().items / 2
