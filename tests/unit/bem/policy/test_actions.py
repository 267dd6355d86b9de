"""Tests of macro-actions, contracts and plans."""

import pytest
from bem.errors import InvalidRequestError
from bem.policy.actions import (
    DEFAULT_ACTIONS,
    FIXED_PLAN,
    MacroAction,
    check_plan,
    enumerate_plans,
    parse_action,
    plan_text,
)


def test_every_enumerated_plan_fits_its_contracts() -> None:
    """Plans are distinct, pass the check and end with a reply."""
    plans = list(enumerate_plans(DEFAULT_ACTIONS))

    assert len(plans) == len(set(plans))
    assert FIXED_PLAN in plans
    for plan in plans:
        check_plan(plan)
        assert plan[-1].contract.returns == "reply"


def test_a_shorter_horizon_leaves_longer_plans_out() -> None:
    """With one step only the direct answer is left."""
    assert list(enumerate_plans(DEFAULT_ACTIONS, 1)) == [(MacroAction("general"),)]


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ((), "plan"),
        ((MacroAction("retrieve"),), r"plan\[0\]"),
        ((MacroAction("formalize", "values"),), r"plan\[0\]"),
        ((MacroAction("retrieve"), MacroAction("reason", "passages")), r"plan\[1\]"),
        ((MacroAction("general"), MacroAction("general", "values")), r"plan\[0\]"),
        ((MacroAction("retrieve"),) * 4, "plan"),
    ],
)
def test_plans_that_do_not_fit_are_refused(plan: tuple[MacroAction, ...], field: str) -> None:
    """The error names the step that does not fit."""
    with pytest.raises(InvalidRequestError, match=field):
        check_plan(plan)


def test_an_action_is_read_back_from_its_text() -> None:
    """``parse_action`` is the inverse of ``str``."""
    for action in DEFAULT_ACTIONS:
        assert parse_action(str(action)) == action
    assert plan_text(FIXED_PLAN).count(" > ") == 2


@pytest.mark.parametrize(
    "text", ["", "retrieve", "x/passages/suffix/0", "retrieve/all/suffix/0", "reason/values/-1/0"]
)
def test_malformed_actions_are_refused(text: str) -> None:
    """Unknown names and malformed texts are errors that name the field."""
    with pytest.raises(InvalidRequestError, match=r"action|adapter|scope|span"):
        parse_action(text)


def test_a_rank_budget_has_limits() -> None:
    """A negative or huge rank budget is refused."""
    with pytest.raises(InvalidRequestError, match="rank_budget"):
        MacroAction("general", rank_budget=-1)
