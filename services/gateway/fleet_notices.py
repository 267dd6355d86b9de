"""Notices of a snapshot: health, performance anomalies, resource conflicts and significance."""

from collections.abc import Iterator
from typing import Any

from bem_fleet.services.gateway.fleet_schema import (
    Control,
    FleetSnapshot,
    Metrics,
    Notice,
    Part,
    Severity,
)

ERROR_SHARE = 0.05
"""Share of failed requests above which a process is reported, as the alert BemGatewayErrors."""

_ORDER: dict[Severity, int] = {"critical": 0, "warning": 1, "info": 2}
_FAILED_CANARIES = {"RolledBack": "warning", "Inconclusive": "warning"}
_SOURCES = {
    "control": "orchestrator",
    "claims": "validation",
    "sessions": "missions",
    "metrics": "metrics",
    "alerts": "prometheus",
}


def notices(snapshot: FleetSnapshot) -> list[Notice]:
    """Return what a person should know of a snapshot, the most severe first."""
    found = [*_sources(snapshot), *_missions(snapshot)]
    if snapshot.control.data:
        found += _control(snapshot.control.data)
    if snapshot.metrics.data:
        found += _metrics(snapshot.metrics.data)
    found += _claims(snapshot.claims.data or [])
    return sorted(found, key=lambda one: _ORDER[one.severity])


def _sources(snapshot: FleetSnapshot) -> Iterator[Notice]:
    for name, source in _SOURCES.items():
        part: Part[Any] = getattr(snapshot, name)
        if part.state == "unavailable":
            severity: Severity = "info" if name == "alerts" else "warning"
            yield Notice(
                kind="health", severity=severity, subject=source, text=part.reason, source=source
            )


def _missions(snapshot: FleetSnapshot) -> Iterator[Notice]:
    for one in snapshot.missions.data or []:
        if not one.serving:
            yield Notice(
                kind="health",
                severity="critical",
                subject=one.name,
                text=f"The mission does not answer: {one.reason}",
                source="missions",
            )
        for warning in one.warnings:
            yield Notice(
                kind="health", severity="info", subject=one.name, text=warning, source="missions"
            )
        for name, reason in one.rejected.items():
            yield Notice(
                kind="health",
                severity="warning",
                subject=one.name,
                text=f"Folder {name} is not served: {reason}",
                source="missions",
            )


def _control(control: Control) -> Iterator[Notice]:
    for one in control.plan.get("assignments", ()):
        if one.get("unmet_reason"):
            yield _orchestrator(
                "resource", "warning", one["mission"], one["unmet_message"] or one["unmet_reason"]
            )
    for edge in control.graph.get("edges", ()):
        if not edge.get("healthy"):
            subject = f"{edge['from']} to {edge['to']}"
            yield _orchestrator("health", "warning", subject, f"{edge['reason']}")
    for mission in control.missions:
        if mission["phase"] == "Degraded":
            reasons = [
                one["message"]
                for one in mission.get("conditions", ())
                if one["status"] == "False" and one["message"]
            ]
            text = "; ".join(reasons) or "The mission is degraded."
            yield _orchestrator("health", "warning", mission["name"], text)
        canary = mission.get("canary")
        if canary and canary["phase"] in _FAILED_CANARIES:
            why = canary["verdict_reasons"] or canary["reason"]
            text = f"Canary {canary['candidate']}: {canary['phase']}. {why}"
            yield _orchestrator("significance", "warning", mission["name"], text)


def _orchestrator(kind: Any, severity: Severity, subject: str, text: str) -> Notice:
    return Notice(kind=kind, severity=severity, subject=subject, text=text, source="orchestrator")


def _metrics(metrics: Metrics) -> Iterator[Notice]:
    for one in metrics.processes:
        if one.reason:
            yield Notice(
                kind="health",
                severity="warning",
                subject=one.name,
                text=f"Its metrics cannot be read: {one.reason}",
                source="metrics",
            )
        last = one.points[-1] if one.points else None
        if last and last.requests_per_s and (last.errors_per_s or 0) > 0:
            share = (last.errors_per_s or 0) / last.requests_per_s
            if share > ERROR_SHARE:
                yield Notice(
                    kind="performance",
                    severity="critical",
                    subject=one.name,
                    text=f"{share:.0%} of the requests fail; the limit is {ERROR_SHARE:.0%}.",
                    source="metrics",
                )


def _claims(claims: list[dict[str, Any]]) -> Iterator[Notice]:
    """Yield the gates whose newest claim fails after one that passed."""
    newest: dict[str, dict[str, Any]] = {}
    for claim in claims:  # newest first
        gate = claim.get("gate_id")
        if not gate:
            continue
        last = newest.setdefault(gate, claim)
        if last is not claim and last["status"] == "fail" and claim["status"] == "pass":
            newest[gate] = {**last, "status": "reported"}
            yield Notice(
                kind="significance",
                severity="warning",
                subject=gate,
                text="The gate has lost significance: its newest claim fails, an older one passed.",
                source="validation",
            )
