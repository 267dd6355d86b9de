"""Canary explanation as text, with the delays that the gate itself has."""

from dataclasses import asdict
from typing import Any

from bem_fleet.cli.canary_explanation import (
    explanation_from_message,
    explanation_from_resource,
    format_explanation,
)
from bem_fleet.services.orchestrator.canary.status import MetricStatus
from bemfleet.fleet.v1 import fleet_pb2 as pb

from tests.unit.services.orchestrator.missions import canary_spec

EVIDENCE = (
    MetricStatus("latency p95", -0.0125, 0.4, 0.75, 90, 4.5),
    MetricStatus("latency", None, 1.0, 1.0, 0, 1.0),
)
REASONS = "latency p95 is not shown yet; answered is not shown yet"
TERMS = {name: one for name, one in canary_spec(image="i").analysis.items() if name != "probes"}


def resource(terms: dict[str, Any]) -> dict[str, Any]:
    """Return a Mission resource with a running analysis; API servers drop null from a patch."""
    evidence = [
        {name: value for name, value in asdict(one).items() if value is not None}
        for one in EVIDENCE
    ]
    gate = {"verdict": "continue", "pairs": 100, "reasons": REASONS, "evidence": evidence}
    return {
        "metadata": {"name": "router"},
        "spec": {"canary": {"image": "i", "analysis": terms}},
        "status": {"canary": {"phase": "Canary", "gate": gate}},
    }


def test_message_and_resource_are_explained_alike() -> None:
    """What is open, how certain each metric is, and how many pairs the dependence leaves."""
    canary = pb.Canary(verdict="continue", pairs=100, verdict_reasons=REASONS)
    for one in EVIDENCE:
        canary.evidence.add(
            metric=one.metric,
            gain=one.gain,
            p_shown=one.shown,
            p_worse=one.worse,
            pairs=one.pairs,
            correlation_time=one.correlation,
        )
    lines = format_explanation(explanation_from_resource(resource({}))).splitlines()
    message = pb.Mission(name="router", canary=canary)

    assert "\n".join(lines) == format_explanation(explanation_from_message(message))
    assert lines[:3] == [
        "router: verdict continue after 100 pairs",
        "  latency p95 is not shown yet",
        "  answered is not shown yet",
    ]
    assert lines[5].split() == ["latency", "p95", "-0.0125", "0.4", "0.75", "90", "20", "4.5"]
    assert lines[6].split()[:2] == ["latency", "-"]


def test_terms_are_explained_with_their_delays() -> None:
    """Every term of the schema has a meaning, and the default delays are those of the manual."""
    text = format_explanation(explanation_from_resource(resource(TERMS)))
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}

    assert TERMS.keys() <= rows.keys()
    assert rows["latencyMargin"][1] == "1.1"
    assert "promote" in rows["equals stable"]
    assert "rollback" in rows["8 % of requests fail"]
    assert int(rows["8 % of requests fail"][-2]) <= 100


def test_stricter_terms_take_longer() -> None:
    """The delays are computed under the terms in force, not stated."""
    strict = format_explanation(explanation_from_resource(resource({**TERMS, "alpha": 0.001})))
    rows = {line.split("  ")[0]: line.split() for line in strict.splitlines()}

    assert int(rows["8 % of requests fail"][-2]) > 100


def test_mission_without_an_analysis() -> None:
    """One line says so; terms of an older schema have no delays."""
    nothing = explanation_from_resource({"metadata": {"name": "x"}})
    old = explanation_from_resource(resource({"alpha": 0.05}))

    assert format_explanation(nothing) == "x: no analysis yet"
    assert "a canary that" not in format_explanation(old)
