"""Tests of the plan tree."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.actions import DEFAULT_ACTIONS, MacroAction
from bem.policy.plan_tree import LEAF, PlanTree


def test_paths_lead_to_their_plans() -> None:
    """Following a plan's path ends with that plan and never before."""
    tree = PlanTree(DEFAULT_ACTIONS)

    for place, plan in enumerate(tree.plans):
        node = 0
        for step, (at, action) in enumerate(tree.path(place)):
            assert at == node
            assert tree.actions[action] == plan[step]
            if step < len(plan) - 1:
                assert int(tree.endings[at, action]) == LEAF
                node = int(tree.children[at, action])
        assert int(tree.endings[at, action]) == place


def test_uniform_steps_give_plan_probabilities_that_sum_to_one() -> None:
    """Plan probabilities are products of step probabilities over the whole tree."""
    tree = PlanTree(DEFAULT_ACTIONS)
    allowed = tree.masks.double()
    uniform = (allowed / allowed.sum(-1, keepdim=True)).log()

    plans = tree.plan_log_probabilities(uniform).exp()

    assert torch.allclose(plans.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_each_node_and_each_action_has_its_own_features() -> None:
    """Actions differ in their factors, and nodes of one depth and stage in the previous action."""
    tree = PlanTree(DEFAULT_ACTIONS)

    assert len(torch.unique(tree.factors, dim=0)) == len(DEFAULT_ACTIONS)
    assert torch.all(tree.factors.sum(1) == 4)
    assert tree.features[0, 0] == 1


@pytest.mark.parametrize("actions", [(), (MacroAction("retrieve"),), (MacroAction("general"),) * 2])
def test_actions_without_a_plan_are_refused(actions: tuple[MacroAction, ...]) -> None:
    """A tree needs distinct actions that make a reply."""
    with pytest.raises(InvalidSettingError, match="actions"):
        PlanTree(actions)
