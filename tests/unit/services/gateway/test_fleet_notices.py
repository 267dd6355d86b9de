"""Conclusions from a snapshot."""

from typing import Any

from bem_fleet.services.gateway.fleet_notices import notices
from bem_fleet.services.gateway.fleet_schema import (
    Caller,
    Control,
    FleetSnapshot,
    Metrics,
    Part,
    ProcessMetrics,
    ProcessPoint,
    ServedMission,
)

ABSENT: Part[Any] = Part(state="absent")


def snapshot(**parts: Any) -> FleetSnapshot:
    """Return a snapshot of a fleet in which only the given parts say anything."""
    names = ("missions", "control", "claims", "sessions", "metrics", "alerts")
    filled = dict.fromkeys(names, ABSENT) | parts
    return FleetSnapshot(unix_ms=1, caller=Caller(name="k", role="operator"), **filled)


def ok(data: Any) -> Part[Any]:
    """Return a part that its source has told."""
    return Part(state="ok", data=data)


def control(**fields: Any) -> Part[Any]:
    """Return the orchestrator's part."""
    empty: dict[str, Any] = {"status": {}, "missions": [], "plan": {}, "graph": {}}
    return ok(Control(**(empty | fields)))


def processes(*points: ProcessPoint, reason: str = "") -> Part[Any]:
    """Return the metrics of one process."""
    one = ProcessMetrics(name="gateway", reason=reason, points=list(points))
    return ok(Metrics(cores=1, memory_bytes=1, interval_s=2, processes=[one]))


def summaries(made: FleetSnapshot) -> list[tuple[str, str, str]]:
    """Return kind, severity and subject of each notice."""
    return [(one.kind, one.severity, one.subject) for one in notices(made)]


def test_healthy_fleet_has_no_notice() -> None:
    """Absent and refused parts are no news."""
    made = snapshot(
        missions=ok([ServedMission(name="router", serving=True)]),
        control=Part(state="refused", reason="operators only"),
        metrics=processes(ProcessPoint(unix_ms=1, requests_per_s=10, errors_per_s=0.1)),
        claims=ok([{"gate_id": "A.x", "status": "pass"}]),
    )

    assert summaries(made) == []


def test_missions_and_sources_that_fail_are_named() -> None:
    """The mission that is away comes first; a missing Prometheus is only a note."""
    made = snapshot(
        missions=ok(
            [
                ServedMission(name="memory", serving=True, warnings=["untrained"]),
                ServedMission(name="router", serving=False, reason="refused"),
                ServedMission(name="x", serving=True, rejected={"old": "no card"}),
            ]
        ),
        control=Part(state="unavailable", reason="the orchestrator: away"),
        alerts=Part(state="unavailable", reason="Prometheus: away"),
    )

    assert summaries(made) == [
        ("health", "critical", "router"),
        ("health", "warning", "orchestrator"),
        ("health", "warning", "x"),
        ("health", "info", "prometheus"),
        ("health", "info", "memory"),
    ]


def test_orchestrator_reports_resources_interfaces_and_canaries() -> None:
    """Unmet GPU requests, broken calls, degraded missions and canaries that were rolled back."""
    canary = {
        "phase": "RolledBack",
        "candidate": "qa-v2",
        "verdict_reasons": "errors are worse",
        "reason": "gate",
    }
    condition = {"status": "False", "message": "no pod is ready"}
    made = snapshot(
        control=control(
            missions=[
                {"name": "router", "phase": "Running", "canary": canary},
                {"name": "sep", "phase": "Degraded", "conditions": [condition]},
                {"name": "x", "phase": "Running", "canary": {**canary, "phase": "Promoted"}},
            ],
            plan={
                "assignments": [
                    {"mission": "a", "unmet_reason": "Conflict", "unmet_message": "no GPU is free"},
                    {"mission": "b", "unmet_reason": "", "unmet_message": ""},
                ]
            },
            graph={"edges": [{"from": "a", "to": "b", "healthy": False, "reason": "b is stopped"}]},
        )
    )
    texts = [one.text for one in notices(made)]

    assert summaries(made) == [
        ("resource", "warning", "a"),
        ("health", "warning", "a to b"),
        ("significance", "warning", "router"),
        ("health", "warning", "sep"),
    ]
    assert texts[0] == "no GPU is free"
    assert "errors are worse" in texts[2]
    assert texts[3] == "no pod is ready"


def test_failing_requests_and_missing_pages_are_reported() -> None:
    """A share of errors above the limit is critical; one below is not."""
    failing = processes(ProcessPoint(unix_ms=1, requests_per_s=10, errors_per_s=1))

    assert summaries(snapshot(metrics=failing)) == [("performance", "critical", "gateway")]
    assert summaries(snapshot(metrics=processes(reason="away"))) == [
        ("health", "warning", "gateway")
    ]


def test_gate_that_lost_significance_is_reported_once() -> None:
    """The newest claim fails where an older one passed; a gate that never passed is no news."""
    claims = [
        {"gate_id": "A.x", "status": "fail"},
        {"gate_id": "B.y", "status": "fail"},
        {"gate_id": "", "status": None},
        {"gate_id": "A.x", "status": "pass"},
        {"gate_id": "A.x", "status": "pass"},
        {"gate_id": "C.z", "status": "pass"},
        {"gate_id": "C.z", "status": "fail"},
    ]

    assert summaries(snapshot(claims=ok(claims))) == [("significance", "warning", "A.x")]
