"""Canary status: the ``canary`` part of a Mission's status, read once, written from the state."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from bem_fleet.services.orchestrator.canary.machine import CanaryPhase, CanaryState
from bem_fleet.services.orchestrator.canary.spec import CanarySpec

_MAX_HISTORY = 10
Object = dict[str, Any]


@dataclass(frozen=True)
class MetricStatus:
    """Evidence on one metric, as the Mission's status holds it.

    Attributes:
        metric: Name of the metric.
        gain: Mean gain of the canary; None before the first pair.
        shown: Always-valid p-value against what promotion requires.
        worse: Always-valid p-value against a tolerable loss.
        pairs: Number of pairs that are evidence.
        correlation: Number of pairs in a row that carry the information of one.
    """

    metric: str
    gain: float | None
    shown: float
    worse: float
    pairs: int
    correlation: float


@dataclass(frozen=True)
class GateStatus:
    """Latest result of the canary analysis.

    Attributes:
        verdict: Verdict: continue, promote, rollback or inconclusive.
        reasons: Explanation of the verdict.
        pairs: Number of request pairs that the analysis has seen.
        delta: Mean gain of the metric that is farthest from being shown, for the printed column.
        p: Always-valid p-value of that metric, for the printed column.
        evidence: Evidence by metric.
    """

    verdict: str = "continue"
    reasons: str = ""
    pairs: int = 0
    delta: str = ""
    p: str = ""
    evidence: tuple[MetricStatus, ...] = ()


@dataclass(frozen=True)
class CanaryStatus:
    """The ``canary`` part of a Mission's status.

    Attributes:
        raw: The part as it is in the object; empty before the first canary.
        state: State of the canary.
        gate: Latest result of the canary analysis.
        image: Image that the canary tries; empty for an adapter canary.
        model: Adapter that the canary tries; empty for a pod canary.
        stable_model: Adapter that answers for ``spec.model`` since a promotion; empty if none.
        stable_snapshot: Image and variables of stable when the canary started.
        undo_promotion: Whether an aborted promotion has to be undone in stable.
    """

    raw: Mapping[str, Any] = field(default_factory=dict)
    state: CanaryState = field(default_factory=CanaryState)
    gate: GateStatus = field(default_factory=GateStatus)
    image: str = ""
    model: str = ""
    stable_model: str = ""
    stable_snapshot: Mapping[str, Any] = field(default_factory=dict)
    undo_promotion: bool = False

    @property
    def candidate(self) -> str:
        """Image or adapter that the canary tries."""
        return self.image or self.model


def read_canary_status(status: Mapping[str, Any]) -> CanaryStatus:
    """Read the ``canary`` part of a Mission's status."""
    canary = status.get("canary") or {}
    if not canary.get("id"):
        return CanaryStatus(raw=canary)
    return CanaryStatus(
        raw=canary,
        state=_read_state(canary),
        gate=_read_gate(canary.get("gate") or {}),
        image=canary.get("image", ""),
        model=canary.get("model", ""),
        stable_model=canary.get("stableModel", ""),
        stable_snapshot=canary.get("stable") or {},
        undo_promotion=bool(canary.get("restore")),
    )


def _read_state(canary: Mapping[str, Any]) -> CanaryState:
    return CanaryState(
        id=canary["id"],
        phase=CanaryPhase(canary["phase"]),
        step=int(canary.get("step", 1)) - 1,
        weight=int(canary.get("weight", 0)),
        mirror=int(canary.get("mirror", 0)),
        since=float(canary.get("sinceUnix", 0)),
        paused=bool(canary.get("paused", False)),
        reason=canary.get("reason", ""),
        promotion_approved=bool(canary.get("promotionApproved", False)),
        run=int(canary.get("run", 0)),
    )


def _write_state(state: CanaryState) -> Object:
    return {
        "id": state.id,
        "phase": state.phase.value,
        "step": state.step + 1,
        "weight": state.weight,
        "stableWeight": 100 - state.weight,
        "mirror": state.mirror,
        "sinceUnix": state.since,
        "paused": state.paused,
        "promotionApproved": state.promotion_approved,
        "reason": state.reason,
        "run": state.run,
    }


def _read_gate(gate: Mapping[str, Any]) -> GateStatus:
    return GateStatus(
        verdict=gate.get("verdict", "continue"),
        reasons=gate.get("reasons", ""),
        pairs=int(gate.get("pairs", 0)),
        delta=gate.get("delta", ""),
        p=gate.get("p", ""),
        evidence=tuple(map(_read_metric, gate.get("evidence") or ())),
    )


def _read_metric(entry: Mapping[str, Any]) -> MetricStatus:
    """Read one metric's evidence; a key of another version is ignored, a missing one is neutral."""
    return MetricStatus(
        metric=entry.get("metric", ""),
        gain=entry.get("gain"),
        shown=float(entry.get("shown", 1)),
        worse=float(entry.get("worse", 1)),
        pairs=int(entry.get("pairs", 0)),
        correlation=float(entry.get("correlation", 1)),
    )


def _write_metric(metric: MetricStatus) -> Object:
    """Return one metric's evidence without None: an API server drops null from a merge patch."""
    return {name: value for name, value in asdict(metric).items() if value is not None}


def canary_status_patch(
    old: CanaryStatus,
    state: CanaryState,
    spec: CanarySpec | None,
    *,
    gate: GateStatus,
    stable: Mapping[str, Any],
) -> Object | None:
    """Return the ``canary`` part of a status to be written; None if there never was a canary.

    Args:
        old: Current status, which holds the state before.
        state: State to write.
        spec: Current specification.
        gate: Latest result of the canary analysis.
        stable: Image and variables that stable has now; recorded when a canary starts.
    """
    if not state.id:
        return None
    before = old.state
    is_new = state.id != before.id
    image, model = ("", "") if is_new else (old.image, old.model)
    if spec is not None and spec.id == state.id:
        image, model = spec.image, spec.model
    # A promotion that is stopped half-way leaves stable with the canary's image: remember to undo.
    stopped_promotion = (
        before.phase is CanaryPhase.PROMOTING and state.phase is CanaryPhase.ROLLED_BACK
    )
    patch: Object = {
        **_write_state(state),
        "image": image,
        "model": model,
        "gate": {**asdict(gate), "evidence": [_write_metric(one) for one in gate.evidence]},
        "history": _history(old, state, gate.pairs),
        "stable": dict(stable) if is_new else dict(old.stable_snapshot),
        "restore": stopped_promotion or (not is_new and old.undo_promotion),
    }
    promoted_model = model if state.phase is CanaryPhase.PROMOTED else ""
    if stable_model := promoted_model or old.stable_model:
        patch["stableModel"] = stable_model
    return patch


def _history(old: CanaryStatus, state: CanaryState, pairs: int) -> list[Object]:
    """Return the latest changes of phase or step, including this one."""
    before = old.state
    entries: list[Object] = [*old.raw.get("history", ())]
    if (state.phase, state.step, state.id) != (before.phase, before.step, before.id):
        entries.append(
            {
                "time": datetime.fromtimestamp(state.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "id": state.id,
                "phase": state.phase,
                "step": state.step + 1,
                "reason": state.reason,
                "pairs": pairs,
            }
        )
    return entries[-_MAX_HISTORY:]
