"""Canary state machine: invariants over random histories, and the usual courses."""

from dataclasses import replace

from bem_fleet.services.orchestrator.canary.machine import (
    COMMANDS,
    CanaryPhase,
    CanaryState,
    Facts,
    GateVerdict,
    advance,
)
from bem_fleet.services.orchestrator.canary.spec import CanarySpec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.services.orchestrator.missions import canary_spec

SPEC = replace(
    canary_spec(
        image="i",
        shadow=20,
        shadowSeconds=5,
        readySeconds=30,
        steps=[{"weight": 10, "seconds": 10}, {"weight": 50, "seconds": 10}],
    ),
    id="a",
)
OTHER = replace(canary_spec(image="j"), id="b")
MOMENTS = st.lists(
    st.tuples(
        st.floats(0, 20),
        st.booleans(),
        st.sampled_from(GateVerdict),
        st.sampled_from(["", "", "", *COMMANDS]),
        st.booleans(),
        st.sampled_from([SPEC, SPEC, SPEC, None, OTHER]),
    ),
    max_size=30,
)


@given(MOMENTS)
@settings(max_examples=200, deadline=None)
def test_the_rules_hold_at_every_moment(moments: list[tuple[object, ...]]) -> None:
    """No weight without readiness, aborts win, ends are final, promotion needs a word."""
    state, now = CanaryState(), 0.0
    for passed, ready, verdict, command, done, spec in moments:
        now += float(passed)  # type: ignore[arg-type]
        facts = Facts(now, bool(ready), GateVerdict(str(verdict)), "", str(command), bool(done))
        after = advance(state, spec, facts)  # type: ignore[arg-type]

        if not ready or not after.phase.is_live:
            assert after.weight == after.mirror == 0
        if command == "abort" and after.id == state.id:
            assert after.phase.is_final
        if state.phase.is_final and after.id == state.id:
            assert after == state
        if after.phase is CanaryPhase.PROMOTING and state.phase is not CanaryPhase.PROMOTING:
            assert ready
            assert verdict is GateVerdict.PROMOTE or after.promotion_approved
        if after.id != state.id:
            assert state.phase.is_final
        assert advance(after, spec, Facts(now, bool(ready))).phase in (  # type: ignore[arg-type]
            set(CanaryPhase) - {CanaryPhase.IDLE} if after.id or spec else {CanaryPhase.IDLE}
        )
        state = after


def run(
    state: CanaryState, seconds: float, spec: CanarySpec | None = SPEC, **facts: object
) -> CanaryState:
    """Return the state some seconds later."""
    given = {"ready": True, **facts}
    return advance(state, spec, Facts(state.since + seconds, **given))  # type: ignore[arg-type]


def test_a_good_canary_is_promoted_after_its_last_step() -> None:
    """Ready, mirrored, 10 %, 50 %, then promoted by the verdict; never before the last step."""
    state = run(CanaryState(), 0, ready=False)
    assert (state.phase, state.weight) == (CanaryPhase.STARTING, 0)
    state = run(state, 1)
    assert (state.phase, state.weight, state.mirror) == (CanaryPhase.SHADOW, 0, 20)
    state = run(state, 5, verdict=GateVerdict.PROMOTE)
    assert (state.phase, state.weight) == (CanaryPhase.CANARY, 10)
    state = run(state, 10, verdict=GateVerdict.PROMOTE)
    assert (state.phase, state.weight) == (CanaryPhase.CANARY, 50)
    assert run(state, 100).phase is CanaryPhase.CANARY
    state = run(state, 10, verdict=GateVerdict.PROMOTE)
    assert (state.phase, state.weight) == (CanaryPhase.PROMOTING, 50)
    state = run(state, 1, stable_is_promoted=True)
    assert (state.phase, state.weight) == (CanaryPhase.PROMOTED, 0)


def test_a_bad_canary_is_rolled_back_at_once() -> None:
    """The gate's rollback takes all weight in one step and says why."""
    state = CanaryState("a", CanaryPhase.CANARY, weight=10)
    after = run(state, 1, verdict=GateVerdict.ROLLBACK, verdict_reason="errors is worse")

    assert (after.phase, after.weight, after.mirror) == (CanaryPhase.ROLLED_BACK, 0, 0)
    assert after.reason == "errors is worse"


def test_a_canary_that_never_comes_up_is_rolled_back() -> None:
    """A canary that is not ready in time is rolled back with that reason."""
    state = CanaryState("a", CanaryPhase.STARTING)

    assert run(state, 29, ready=False).phase is CanaryPhase.STARTING
    assert run(state, 31, ready=False).reason == "not ready within 30 s"


def test_an_inconclusive_canary_waits_for_a_person() -> None:
    """It keeps its share until somebody resumes, promotes or aborts it."""
    state = run(CanaryState("a", CanaryPhase.CANARY), 1, verdict=GateVerdict.INCONCLUSIVE)
    assert (state.phase, state.weight) == (CanaryPhase.INCONCLUSIVE, 10)
    assert run(state, 1e6, verdict=GateVerdict.INCONCLUSIVE) == state

    assert run(state, 1, command="promote").phase is CanaryPhase.PROMOTING
    assert run(state, 1, command="abort").phase is CanaryPhase.ROLLED_BACK


def test_a_pause_holds_and_a_resume_goes_on() -> None:
    """A paused canary keeps its share however long it takes."""
    paused = run(CanaryState("a", CanaryPhase.CANARY), 1, command="pause")
    assert run(paused, 1e6).step == 0

    assert run(run(paused, 1e6, command="resume"), 1e6).step == 1


def test_a_changed_specification_ends_the_old_canary_first() -> None:
    """One rollout a mission: the old one is rolled back, then the new one starts."""
    other = OTHER
    ended = run(CanaryState("a", CanaryPhase.CANARY, weight=10), 1, other)

    assert (ended.id, ended.phase) == ("a", CanaryPhase.ROLLED_BACK)
    assert run(ended, 1, other).phase is CanaryPhase.STARTING


def test_the_same_is_not_tried_twice_unless_asked() -> None:
    """A canary that has ended stays ended; a higher attempt is another canary."""
    first, again = canary_spec(image="i"), canary_spec(image="i", attempt=1)
    ended = CanaryState(first.id, CanaryPhase.ROLLED_BACK)

    assert canary_spec(image="i", attempt=0) == first
    assert run(ended, 1e6, first) == ended
    assert run(ended, 1, again).phase is CanaryPhase.STARTING


def test_the_documented_example_is_what_happens() -> None:
    """The table in the module's docstring, row by row."""
    steps = [{"weight": 10, "seconds": 60}, {"weight": 50, "seconds": 60}]
    spec = canary_spec(image="i", steps=steps)
    rows: list[tuple[float, dict[str, object], CanaryPhase, int, int]] = [
        (0, {}, CanaryPhase.STARTING, 0, 0),
        (20, {"ready": True}, CanaryPhase.CANARY, 0, 10),
        (80, {"ready": True}, CanaryPhase.CANARY, 1, 50),
        (95, {}, CanaryPhase.CANARY, 1, 0),
        (97, {"ready": True}, CanaryPhase.CANARY, 1, 50),
        (140, {"ready": True, "verdict": GateVerdict.PROMOTE}, CanaryPhase.PROMOTING, 1, 50),
        (170, {"ready": True, "stable_is_promoted": True}, CanaryPhase.PROMOTED, 1, 0),
    ]
    state = CanaryState()
    for now, facts, phase, step, weight in rows:
        state = advance(state, spec, Facts(now, **facts))  # type: ignore[arg-type]
        assert (state.phase, state.step, state.weight) == (phase, step, weight), now


def test_no_canary_starts_beside_an_unsuitable_or_missing_stable() -> None:
    """A blocker ends the canary with its reason before it starts; without stable it waits."""
    blocked = advance(CanaryState(), SPEC, Facts(5, blocker="no track label"))
    waiting = advance(CanaryState(), SPEC, Facts(5, stable_exists=False))

    assert (blocked.phase, blocked.reason, blocked.id) == (
        CanaryPhase.ROLLED_BACK,
        "no track label",
        "a",
    )
    assert waiting == CanaryState()
