"""Canary status as text, the same for ``fleetctl canary`` and ``kubectl bem canary``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bemfleet.fleet.v1 import fleet_pb2 as pb


@dataclass(frozen=True)
class CanaryStatus:
    """Status of one mission's canary.

    Attributes:
        mission: Name of the mission.
        candidate: Adapter or image under test.
        phase: Phase of the state machine.
        reason: Why it is in that phase.
        step: Index of the step, from 0.
        stable_weight: Percent of the sessions that stable answers.
        canary_weight: Percent of the sessions that the canary answers.
        mirror: Percent of the requests that both answer.
        verdict: Latest verdict of the analysis.
        pairs: Pairs of answers that the verdict rests on.
        paused: Whether a person has paused it.
    """

    mission: str
    candidate: str
    phase: str
    reason: str
    step: str
    stable_weight: int
    canary_weight: int
    mirror: int
    verdict: str
    pairs: int
    paused: bool = False


def from_message(mission: pb.Mission) -> CanaryStatus | None:
    """Return the canary of a mission as the orchestrator reports it; None without one."""
    if not mission.HasField("canary"):
        return None
    canary = mission.canary
    return CanaryStatus(
        mission=mission.name,
        candidate=canary.candidate,
        phase=canary.phase,
        reason=canary.reason,
        step=str(canary.step),
        stable_weight=100 - canary.weight,
        canary_weight=canary.weight,
        mirror=canary.mirror,
        verdict=canary.verdict,
        pairs=canary.pairs,
        paused=canary.paused,
    )


def from_resource(mission: Mapping[str, Any]) -> CanaryStatus | None:
    """Return the canary of a ``Mission`` resource; None without one."""
    canary = (mission.get("status") or {}).get("canary")
    if not canary:
        return None
    gate = canary.get("gate", {})
    return CanaryStatus(
        mission=mission["metadata"]["name"],
        candidate=canary.get("image") or canary.get("model", ""),
        phase=canary["phase"],
        reason=canary.get("reason", ""),
        step=str(canary.get("step", "")),
        stable_weight=canary.get("stableWeight", 100),
        canary_weight=canary.get("weight", 0),
        mirror=canary.get("mirror", 0),
        verdict=gate.get("verdict", ""),
        pairs=gate.get("pairs", 0),
        paused=bool(canary.get("paused")),
    )


def format_canary(name: str, canary: CanaryStatus | None) -> str:
    """Return a mission's canary as eight lines, or one line where there is none."""
    if canary is None:
        return f"{name}: no canary yet"
    rows = [
        ("mission", canary.mission),
        ("candidate", canary.candidate),
        ("phase", f"{canary.phase}{' (paused)' if canary.paused else ''}"),
        ("reason", canary.reason),
        ("step", canary.step),
        ("stable / canary", f"{canary.stable_weight} / {canary.canary_weight} %"),
        ("mirrored", f"{canary.mirror} %"),
        ("verdict", f"{canary.verdict} after {canary.pairs} pairs"),
    ]
    return "\n".join(f"{key:<16} {value}" for key, value in rows)


def format_history(mission: Mapping[str, Any]) -> str:
    """Return the phase changes of a canary, oldest first."""
    changes = ((mission.get("status") or {}).get("canary") or {}).get("history") or []
    return "\n".join(
        f"{one['time']}  {one['id']}  {one['phase']:<12} step {one['step']}  "
        f"{one['pairs']} pairs  {one['reason']}"
        for one in changes
    )
