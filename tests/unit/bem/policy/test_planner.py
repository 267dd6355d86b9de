"""Tests of the planner."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.hysteresis import PlanHysteresis
from bem.policy.planner import Planner, describe_choice, policy_distance

from tests.support.policies import tiny_policy


def test_a_choice_explains_itself() -> None:
    """All plans are listed once, with probabilities that sum to 1 and a reason each."""
    artifact = tiny_policy()

    choice = Planner(artifact).choose(artifact.reference[0])

    assert choice is not None
    plans = [choice.plan, *(other.plan for other in choice.alternatives)]
    assert sorted(plans) == sorted(artifact.tree.plans)
    total = choice.probability + sum(other.probability for other in choice.alternatives)
    assert total == pytest.approx(1, abs=1e-5)
    assert all(other.probability <= choice.probability for other in choice.alternatives)
    assert all(other.reason for other in choice.alternatives)
    assert len(choice.step_probabilities) == len(choice.plan)
    best_other = max(other.expected_reward for other in choice.alternatives)
    assert choice.expected_gain == pytest.approx(choice.expected_reward - best_other)
    assert str(choice.plan[0]) in describe_choice(choice)


def test_plans_without_their_adapter_cannot_run() -> None:
    """A missing adapter leaves the others; without any plan there is no choice."""
    artifact = tiny_policy()
    planner = Planner(artifact)

    choice = planner.choose(artifact.reference[0], missing={"retrieve"})

    assert choice is not None
    assert [action.adapter for action in choice.plan] == ["general"]
    assert any("not loaded" in other.reason for other in choice.alternatives)
    assert planner.choose(artifact.reference[0], missing={"retrieve", "general"}) is None


def test_a_session_keeps_its_plan() -> None:
    """Hysteresis holds a plan that the policy would leave."""
    artifact = tiny_policy()
    planner = Planner(artifact, PlanHysteresis(threshold=1e9))
    free = Planner(artifact)
    wanted = [free.choose(state) for state in 10 * artifact.reference]
    first = wanted[0]
    other = next(
        place for place, one in enumerate(wanted) if one and first and one.plan != first.plan
    )
    planner.choose(10 * artifact.reference[0], session="s")

    choice = planner.choose(10 * artifact.reference[other], session="s")

    assert choice is not None
    assert first is not None
    assert choice.held
    assert choice.plan == first.plan


def test_the_distance_grows_with_the_change() -> None:
    """An equal policy is at distance 0; a larger change is further away."""
    policy = tiny_policy()

    near, far = (policy_distance(policy, tiny_policy(nudge=nudge))[0] for nudge in (0.05, 2.0))

    assert policy_distance(policy, tiny_policy()) == (0, 0)
    assert 0 < near < 0.01 < far
    assert torch.isfinite(torch.tensor(far))


def test_policies_of_other_actions_have_no_distance() -> None:
    """An update changes weights, never the actions."""
    with pytest.raises(InvalidSettingError, match="actions"):
        policy_distance(tiny_policy(), tiny_policy(actions=DEFAULT_ACTIONS[:6]))
