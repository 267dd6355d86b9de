"""A canary's state as it lies in the Mission's status, and the route that follows from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from bem_fleet.services.orchestrator.canary.machine import Phase, State
from bem_fleet.services.orchestrator.canary.spec import CanarySpec

_KEPT = 10
Object = dict[str, Any]


@dataclass(frozen=True)
class GateView:
    """What validation said last.

    Attributes:
        verdict: continue, promote, rollback or inconclusive.
        reasons: Its words.
        pairs: How many it has seen.
        delta: The least favourable mean gain, for the column.
        p: The p-value of that metric being acceptable.
    """

    verdict: str = "continue"
    reasons: str = ""
    pairs: int = 0
    delta: str = ""
    p: str = ""


def read_state(status: Mapping[str, Any]) -> State:
    """Read the state of a mission's status."""
    found = status.get("canary") or {}
    if not found.get("id"):
        return State()
    return State(
        id=found["id"],
        phase=Phase(found["phase"]),
        step=int(found.get("step", 1)) - 1,
        weight=int(found.get("weight", 0)),
        mirror=int(found.get("mirror", 0)),
        since=float(found.get("sinceUnix", 0)),
        paused=bool(found.get("paused", False)),
        reason=found.get("reason", ""),
        allowed=bool(found.get("allowed", False)),
    )


def read_gate(status: Mapping[str, Any]) -> GateView:
    """Read the gate of a mission's status."""
    found = (status.get("canary") or {}).get("gate") or {}
    return GateView(
        verdict=found.get("verdict", "continue"),
        reasons=found.get("reasons", ""),
        pairs=int(found.get("pairs", 0)),
        delta=found.get("delta", ""),
        p=found.get("p", ""),
    )


def written(
    old: Mapping[str, Any],
    before: State,
    state: State,
    spec: CanarySpec | None,
    *,
    gate: GateView,
    stable: Mapping[str, Any],
) -> Object | None:
    """Return the ``canary`` part of a status; None if there never was a canary.

    Args:
        old: The part as it is.
        before: State that it holds.
        state: State to write.
        spec: What is asked for.
        gate: What validation said of the canary.
        stable: Image and variables that stable has now, kept when a canary begins.
    """
    if not state.id:
        return None
    fresh = state.id != before.id
    tried = spec is not None and spec.id == state.id
    image = spec.image if tried and spec else ("" if fresh else old.get("image", ""))
    model = spec.model if tried and spec else ("" if fresh else old.get("model", ""))
    made: Object = {
        "id": state.id,
        "phase": state.phase.value,
        "image": image,
        "model": model,
        "step": state.step + 1,
        "weight": state.weight,
        "stableWeight": 100 - state.weight,
        "mirror": state.mirror,
        "sinceUnix": state.since,
        "paused": state.paused,
        "allowed": state.allowed,
        "reason": state.reason,
        "gate": asdict(gate),
        "history": _history(old, before, state, gate.pairs),
    }
    made["stable"] = dict(stable) if fresh else old.get("stable", {})
    undone = before.phase is Phase.PROMOTING and state.phase is Phase.ROLLED_BACK
    made["restore"] = undone or (not fresh and bool(old.get("restore")))
    if alias := _alias(old, state, model):
        made["stableModel"] = alias
    return made


def _history(old: Mapping[str, Any], before: State, state: State, pairs: int) -> list[Object]:
    """Return the last changes of phase or step, this one included."""
    kept: list[Object] = [*old.get("history", ())]
    if (state.phase, state.step, state.id) != (before.phase, before.step, before.id):
        kept.append(
            {
                "time": datetime.fromtimestamp(state.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "id": state.id,
                "phase": state.phase,
                "step": state.step + 1,
                "reason": state.reason,
                "pairs": pairs,
            }
        )
    return kept[-_KEPT:]


def _alias(old: Mapping[str, Any], state: State, model: str) -> str:
    """Return the adapter that answers for ``spec.model`` since a promotion; empty if none does."""
    if state.phase is Phase.PROMOTED and model:
        return model
    return str(old.get("stableModel", ""))
