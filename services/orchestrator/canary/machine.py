"""Canary state machine: a pure function from state, specification and facts to the next state.

::

    Idle → Starting → Shadow → Canary (steps) → Promoting → Promoted
              └──────────┴───────────┴──────────────┴─────→ RolledBack
                         └───────────┴→ Inconclusive (until a person promotes or aborts)

Invariants, property-tested over random histories:

- a canary that is not ready has neither weight nor mirror;
- a person's abort wins over every verdict, until the promotion is complete;
- a rollback is one transition: the weight is 0 at once, cleaning up follows later;
- promotion follows the last step, and only by the gate's verdict or a person's command;
- a canary whose specification changes is rolled back before another one starts.

Example: steps of 10 % for 60 s and 50 % for 60 s, no shadow phase. ``advance`` is called at each
change and once a second:

====== ============================ ============================================
t (s)  facts                        state after
====== ============================ ============================================
0      a new id in ``spec.canary``  Starting, weight 0
20     ready                        Canary, step 0, weight 10
80     60 s have passed             Canary, step 1, weight 50
95     not ready (pod restarts)     Canary, step 1, weight 0: the step goes on
97     ready                        Canary, step 1, weight 50
140    verdict promote, 60 s passed Promoting, weight 50
170    stable runs the new image    Promoted, weight 0
====== ============================ ============================================

With verdict ``rollback`` at t = 90 the next state would be RolledBack with weight 0 instead, and
nothing else would happen until ``spec.canary`` names another canary.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from bem_fleet.services.orchestrator.canary.spec import CanarySpec


class CanaryPhase(StrEnum):
    """Phase of a canary, as ``kubectl get missions`` prints it."""

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
        """Whether the canary has ended, or none has started."""
        return self in (CanaryPhase.IDLE, CanaryPhase.PROMOTED, CanaryPhase.ROLLED_BACK)

    @property
    def is_live(self) -> bool:
        """Whether requests may be routed or mirrored to the canary."""
        return self in (
            CanaryPhase.SHADOW,
            CanaryPhase.CANARY,
            CanaryPhase.INCONCLUSIVE,
            CanaryPhase.PROMOTING,
        )


class GateVerdict(StrEnum):
    """Verdict of the canary analysis."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class CanaryState:
    """State of a canary, persisted in the Mission's status.

    Attributes:
        id: Id of the specification that the state belongs to; empty before the first canary.
        phase: Phase of the canary.
        step: Index of the traffic step, from 0.
        weight: Percent of sessions that the canary answers now.
        mirror: Percent of stable's requests that are mirrored to the canary now.
        since: Start of the phase or step, in seconds since the epoch.
        paused: Whether the step waits for a person.
        reason: Reason of the last transition.
        promotion_approved: Whether a person has approved the promotion, whatever the verdict.
        run: Start of this run, in whole seconds since the epoch: the same specification may be
            tried again, and then has evidence of its own. 0 if an earlier version started it.
    """

    id: str = ""
    phase: CanaryPhase = CanaryPhase.IDLE
    step: int = 0
    weight: int = 0
    mirror: int = 0
    since: float = 0.0
    paused: bool = False
    reason: str = ""
    promotion_approved: bool = False
    run: int = 0


@dataclass(frozen=True)
class Facts:
    """Observations that ``advance`` decides by, gathered at one moment.

    Attributes:
        now: Time of the observation, in seconds since the epoch.
        ready: Whether the canary can answer requests.
        verdict: Latest verdict of the canary analysis.
        verdict_reason: Explanation of the verdict.
        command: A person's command: pause, resume, promote, abort, or empty.
        stable_is_promoted: Whether stable runs what is being promoted.
        stable_exists: Whether there is a stable workload beside which a canary can start.
        blocker: Reason why no canary can start beside stable; empty if one can.
    """

    now: float
    ready: bool = False
    verdict: GateVerdict = GateVerdict.CONTINUE
    verdict_reason: str = ""
    command: str = ""
    stable_is_promoted: bool = False
    stable_exists: bool = True
    blocker: str = ""


COMMANDS = ("pause", "resume", "promote", "abort")


def advance(state: CanaryState, spec: CanarySpec | None, facts: Facts) -> CanaryState:
    """Return the next state; an equal one if nothing changes.

    The order of the checks is the order of precedence: a changed specification, then a person's
    command, then verdict and time; traffic is set last, from the resulting phase.
    """
    running = not state.phase.is_final
    if running and (spec is None or spec.id != state.id):
        removed = "removed from the specification"
        replaced = "replaced by another canary in the specification"
        return _roll_back(state, facts, removed if spec is None else replaced)
    if spec is None:
        return state
    if not running:
        return _start(state, spec, facts)
    if facts.command == "abort":
        return _roll_back(state, facts, "aborted by a person")
    if facts.command in ("pause", "resume"):
        state = _apply_pause(state, facts)
    if facts.command == "promote" and not state.promotion_approved:
        reason = "promotion approved by a person"
        state = replace(state, promotion_approved=True, paused=False, reason=reason)
    return _set_traffic(_apply_verdict_and_time(state, spec, facts), spec, facts)


def _start(state: CanaryState, spec: CanarySpec, facts: Facts) -> CanaryState:
    """Start a canary, unless this one has ended before or cannot run beside stable."""
    # The id of an ended canary stays in the status, so the same specification is not tried twice.
    if spec.id == state.id or not facts.stable_exists:
        return state
    if facts.blocker:
        return CanaryState(spec.id, CanaryPhase.ROLLED_BACK, since=facts.now, reason=facts.blocker)
    run = int(facts.now)
    return CanaryState(spec.id, CanaryPhase.STARTING, since=facts.now, reason="started", run=run)


def _apply_verdict_and_time(state: CanaryState, spec: CanarySpec, facts: Facts) -> CanaryState:
    if state.phase is CanaryPhase.PROMOTING:
        # The decision has been made: only stable's rollout is waited for, verdicts are ignored.
        done = facts.stable_is_promoted
        return _finish(state, CanaryPhase.PROMOTED, facts, state.reason) if done else state
    if state.phase is CanaryPhase.STARTING:
        return _leave_starting(state, spec, facts)
    if facts.verdict is GateVerdict.ROLLBACK:
        return _roll_back(state, facts, facts.verdict_reason or "rolled back by the analysis")
    is_inconclusive = state.phase is CanaryPhase.INCONCLUSIVE
    if state.promotion_approved and facts.ready:
        state = _enter(state, CanaryPhase.PROMOTING, facts, state.reason)
    elif facts.verdict is GateVerdict.INCONCLUSIVE and not is_inconclusive:
        reason = facts.verdict_reason or "the analysis is inconclusive"
        state = _enter(state, CanaryPhase.INCONCLUSIVE, facts, reason)
    elif facts.ready and not state.paused and not is_inconclusive:
        state = _advance_step(state, spec, facts)
    return state


def _advance_step(state: CanaryState, spec: CanarySpec, facts: Facts) -> CanaryState:
    """Enter the next step when the time of this one has passed, or promote after the last."""
    elapsed = facts.now - state.since
    if state.phase is CanaryPhase.SHADOW:
        return state if elapsed < spec.shadow_s else _enter_step(state, spec, facts, 0)
    # The specification's steps may have become fewer since: the last one then counts.
    step = spec.steps[min(state.step, len(spec.steps) - 1)]
    if elapsed < step.seconds:
        return state
    if state.step + 1 < len(spec.steps):
        return _enter_step(state, spec, facts, state.step + 1)
    if facts.verdict is GateVerdict.PROMOTE:
        reason = facts.verdict_reason or "promoted by the analysis"
        return _enter(state, CanaryPhase.PROMOTING, facts, reason)
    return state


def _leave_starting(state: CanaryState, spec: CanarySpec, facts: Facts) -> CanaryState:
    if facts.ready:
        if spec.shadow_s > 0:
            return _enter(state, CanaryPhase.SHADOW, facts, "ready")
        return _enter_step(state, spec, facts, 0)
    if facts.now - state.since > spec.ready_s:
        return _roll_back(state, facts, f"not ready within {spec.ready_s:g} s")
    return state


def _apply_pause(state: CanaryState, facts: Facts) -> CanaryState:
    if facts.command == "pause":
        return replace(state, paused=True, reason="paused by a person")
    return replace(state, paused=False, reason="resumed by a person") if state.paused else state


def _set_traffic(state: CanaryState, spec: CanarySpec, facts: Facts) -> CanaryState:
    """Set weight and mirror from the phase; both are 0 for a canary that is not ready.

    Traffic is derived anew at each call instead of being changed by transitions, so no sequence
    of events can leave weight on a canary that cannot answer.
    """
    weight = mirror = 0
    if facts.ready and state.phase.is_live:
        mirror = spec.shadow
        if state.phase is not CanaryPhase.SHADOW:
            weight = spec.steps[min(state.step, len(spec.steps) - 1)].weight
    return replace(state, weight=weight, mirror=mirror)


def _enter(state: CanaryState, phase: CanaryPhase, facts: Facts, reason: str) -> CanaryState:
    return replace(state, phase=phase, since=facts.now, reason=reason)


def _enter_step(state: CanaryState, spec: CanarySpec, facts: Facts, step: int) -> CanaryState:
    entered = _enter(state, CanaryPhase.CANARY, facts, f"step {step + 1}")
    return replace(entered, step=step, paused=spec.steps[step].hold)


def _roll_back(state: CanaryState, facts: Facts, reason: str) -> CanaryState:
    return _finish(state, CanaryPhase.ROLLED_BACK, facts, reason)


def _finish(state: CanaryState, phase: CanaryPhase, facts: Facts, reason: str) -> CanaryState:
    ended = CanaryState(state.id, phase, step=state.step, since=facts.now, reason=reason)
    return replace(ended, run=state.run)
