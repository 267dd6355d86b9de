"""The life of a canary, one step at a time; pure, so that its rules can be tested exhaustively.

Idle → Starting → Shadow → Canary → Promoting → Promoted, or → RolledBack from anywhere before
Promoted; Inconclusive holds until a person promotes or aborts. The rules:

- no weight, and no mirror, to a canary that is not ready;
- a person's abort wins over every verdict, until the promotion is done;
- a rollback is one step: weight 0 at once, what was made for it goes afterwards;
- promotion follows the last step, and only by the gate's verdict or a person's word;
- a canary whose specification changes is rolled back before another begins.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from bem_fleet.services.orchestrator.canary.spec import CanarySpec


class Phase(StrEnum):
    """Where a canary stands."""

    IDLE = "Idle"
    STARTING = "Starting"
    SHADOW = "Shadow"
    CANARY = "Canary"
    INCONCLUSIVE = "Inconclusive"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows until something else is asked for."""
        return self in (Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK)

    @property
    def is_live(self) -> bool:
        """Whether requests may reach the canary."""
        return self in (Phase.SHADOW, Phase.CANARY, Phase.INCONCLUSIVE, Phase.PROMOTING)


class Verdict(StrEnum):
    """What validation's gate says."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class State:
    """Where a canary stands; kept in the Mission's status.

    Attributes:
        id: Of the specification that it belongs to; empty before the first.
        phase: Where it stands.
        step: Index of the step.
        weight: Percent of sessions that the canary answers now.
        mirror: Percent of stable's requests that it sees without answering.
        since: When phase or step began, seconds since the epoch.
        paused: Whether a person holds it.
        reason: Why it came here.
        allowed: Whether a person has asked for the promotion, whatever the gate says.
    """

    id: str = ""
    phase: Phase = Phase.IDLE
    step: int = 0
    weight: int = 0
    mirror: int = 0
    since: float = 0.0
    paused: bool = False
    reason: str = ""
    allowed: bool = False


@dataclass(frozen=True)
class Facts:
    """What is seen at a moment.

    Attributes:
        now: Seconds since the epoch.
        ready: Whether the canary can answer.
        verdict: The gate's.
        verdict_reason: The gate's words.
        command: A person's: pause, resume, promote, abort, or empty.
        stable_done: Whether stable runs what was promoted.
    """

    now: float
    ready: bool = False
    verdict: Verdict = Verdict.CONTINUE
    verdict_reason: str = ""
    command: str = ""
    stable_done: bool = False


COMMANDS = ("pause", "resume", "promote", "abort")


def advance(state: State, spec: CanarySpec | None, facts: Facts) -> State:
    """Return the next state; the same one when nothing is due."""
    running = not state.phase.is_final
    if running and (spec is None or spec.id != state.id):
        why = "removed from the specification" if spec is None else "another one is asked for"
        return _ended(state, facts, why)
    if spec is None:
        return state
    if not running:
        if spec.id == state.id:
            return state
        return State(spec.id, Phase.STARTING, since=facts.now, reason="started")
    if facts.command == "abort":
        return _ended(state, facts, "aborted by a person")
    if facts.command in ("pause", "resume"):
        state = _held(state, facts)
    if facts.command == "promote" and not state.allowed:
        state = replace(state, allowed=True, paused=False, reason="promotion asked by a person")
    return _weighed(_moved(state, spec, facts), spec, facts)


def _moved(state: State, spec: CanarySpec, facts: Facts) -> State:
    """Apply verdict and time."""
    if state.phase is Phase.PROMOTING:
        done = facts.stable_done
        return _final(state, Phase.PROMOTED, facts, state.reason) if done else state
    if state.phase is Phase.STARTING:
        return _started(state, spec, facts)
    if facts.verdict is Verdict.ROLLBACK:
        return _ended(state, facts, facts.verdict_reason or "the gate says so")
    if state.allowed and facts.ready:
        state = _next(state, Phase.PROMOTING, facts, state.reason)
    elif facts.verdict is Verdict.INCONCLUSIVE and state.phase is not Phase.INCONCLUSIVE:
        state = _next(state, Phase.INCONCLUSIVE, facts, facts.verdict_reason or "not decided")
    elif not (state.paused or not facts.ready or state.phase is Phase.INCONCLUSIVE):
        state = _stepped(state, spec, facts, facts.now - state.since)
    return state


def _stepped(state: State, spec: CanarySpec, facts: Facts, elapsed: float) -> State:
    if state.phase is Phase.SHADOW:
        if elapsed < spec.shadow_s:
            return state
        return replace(_next(state, Phase.CANARY, facts, "step 1"), paused=spec.steps[0].hold)
    step = spec.steps[min(state.step, len(spec.steps) - 1)]
    if elapsed < step.seconds:
        return state
    if state.step + 1 < len(spec.steps):
        index = state.step + 1
        moved = replace(_next(state, Phase.CANARY, facts, f"step {index + 1}"), step=index)
        return replace(moved, paused=spec.steps[index].hold)
    if facts.verdict is Verdict.PROMOTE:
        return _next(state, Phase.PROMOTING, facts, facts.verdict_reason or "shown by the gate")
    return state


def _started(state: State, spec: CanarySpec, facts: Facts) -> State:
    if facts.ready:
        if spec.shadow_s > 0:
            return _next(state, Phase.SHADOW, facts, "ready")
        return replace(_next(state, Phase.CANARY, facts, "step 1"), paused=spec.steps[0].hold)
    if facts.now - state.since > spec.ready_s:
        return _ended(state, facts, f"not ready within {spec.ready_s:g} s")
    return state


def _held(state: State, facts: Facts) -> State:
    if facts.command == "pause":
        return replace(state, paused=True, reason="paused by a person")
    return replace(state, paused=False, reason="resumed by a person") if state.paused else state


def _weighed(state: State, spec: CanarySpec, facts: Facts) -> State:
    """Give weight and mirror by phase; none to a canary that is not ready."""
    weight = mirror = 0
    if facts.ready and state.phase.is_live:
        mirror = spec.shadow
        if state.phase is not Phase.SHADOW:
            weight = spec.steps[min(state.step, len(spec.steps) - 1)].weight
    return replace(state, weight=weight, mirror=mirror)


def _next(state: State, phase: Phase, facts: Facts, reason: str) -> State:
    return replace(state, phase=phase, since=facts.now, reason=reason)


def _ended(state: State, facts: Facts, reason: str) -> State:
    return _final(state, Phase.ROLLED_BACK, facts, reason)


def _final(state: State, phase: Phase, facts: Facts, reason: str) -> State:
    return State(state.id, phase, state.step, 0, 0, facts.now, False, reason)
