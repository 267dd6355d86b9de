"""Tests of plan hysteresis."""

import pytest
from bem.errors import InvalidSettingError
from bem.policy.hysteresis import PlanHysteresis, flip_rate

BETTER = (0.5, 0.9)


def test_a_switch_needs_agreement_of_two_requests() -> None:
    """The first request that prefers another plan keeps the old one, the second switches."""
    memory = PlanHysteresis(threshold=0.03, agreeing=2)
    memory.choose("s", 0, BETTER)

    first, second = (memory.choose("s", 1, BETTER) for _ in range(2))

    assert (first.plan, first.held) == (0, True)
    assert (second.plan, second.held) == (1, False)


def test_a_small_gain_never_switches() -> None:
    """The gain has to be above the threshold."""
    memory = PlanHysteresis(threshold=0.5, agreeing=1)
    memory.choose("s", 0, BETTER)

    decision = memory.choose("s", 1, BETTER)

    assert decision.held
    assert "not above 0.5" in decision.reason


def test_agreement_is_counted_in_a_row() -> None:
    """A request that prefers the session's plan starts the count again."""
    memory = PlanHysteresis(agreeing=2)
    plans = [memory.choose("s", wanted, BETTER).plan for wanted in (0, 1, 0, 1, 1)]

    assert plans == [0, 0, 0, 0, 1]


def test_sessions_are_apart_and_bounded() -> None:
    """Each session has its own plan; the least recently used one is forgotten."""
    memory = PlanHysteresis(max_sessions=2)
    for session, plan in (("a", 0), ("b", 1), ("a", 0), ("c", 1)):
        memory.choose(session, plan, BETTER)

    assert memory.choose("a", 1, BETTER).held
    assert memory.choose("b", 0, BETTER).reason == "first request of the session"


def test_requests_without_a_session_are_never_held() -> None:
    """The policy's plan runs."""
    memory = PlanHysteresis()

    assert [memory.choose("", plan, BETTER).plan for plan in (0, 1, 0)] == [0, 1, 0]


def test_a_cleared_memory_has_no_sessions() -> None:
    """After another policy is loaded the indices mean other plans."""
    memory = PlanHysteresis()
    memory.choose("s", 0, BETTER)
    memory.clear()

    assert memory.choose("s", 1, BETTER).plan == 1


def test_flips_are_counted_between_neighbours() -> None:
    """The rate is a share of the transitions."""
    assert flip_rate([0, 1, 1, 0]) == pytest.approx(2 / 3)
    assert flip_rate([0]) == 0


def test_settings_out_of_range_are_refused() -> None:
    """A negative threshold would switch at a loss."""
    with pytest.raises(InvalidSettingError, match="threshold"):
        PlanHysteresis(threshold=-1)
