"""Tests of outcome tables and sampled episodes."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.network import PolicyNetwork
from bem.policy.outcomes import (
    OutcomeTable,
    best_plans,
    node_states,
    plan_rewards,
    sample_episodes,
)
from bem.policy.plan_tree import PlanTree

TREE = PlanTree(DEFAULT_ACTIONS)


def table(items: int = 6) -> OutcomeTable:
    """Return a table whose reward of a plan is its index plus a tenth of the item's."""
    plans = torch.arange(len(TREE.plans)).float()
    rewards = plans + torch.arange(items).unsqueeze(1) / 10
    return OutcomeTable(TREE, torch.randn(items, 3), rewards)


def test_an_episode_ends_with_the_reward_of_its_plan() -> None:
    """The steps of each episode are its plan's, and only the last one is rewarded."""
    outcomes = table()
    policy = PolicyNetwork(3 + TREE.features.shape[1], TREE.factors)
    items = torch.arange(6).repeat(20)

    episodes = sample_episodes(policy, outcomes, items, torch.Generator().manual_seed(0))

    assert len(set(episodes.plans.tolist())) > 5
    for row, plan in enumerate(episodes.plans.tolist()):
        actions = episodes.actions[row, episodes.alive[row]].tolist()
        assert actions == [action for _, action in TREE.path(plan)]
        assert episodes.rewards[row].sum() == outcomes.rewards[items[row], plan]
        assert episodes.rewards[row, len(actions) - 1] == outcomes.rewards[items[row], plan]


def test_states_join_item_and_node() -> None:
    """Each state is the item's features followed by the node's."""
    features = torch.randn(2, 3)

    states = node_states(TREE, features)

    assert torch.equal(states[1, 4, :3], features[1])
    assert torch.equal(states[1, 4, 3:], TREE.features[4])


def test_rewards_charge_steps_and_misses() -> None:
    """A score of 1 with two steps and no reuse is worth 0.94."""
    rewards = plan_rewards(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), [2, 1])

    assert torch.allclose(rewards, torch.tensor([[0.94, 0.98]]))


def test_the_best_plan_leads_by_its_margin() -> None:
    """The last plan has the highest reward, one more than the second."""
    best, lead = best_plans(table())

    assert best.tolist() == [len(TREE.plans) - 1] * 6
    assert torch.allclose(lead, torch.ones(6))


def test_the_shortest_of_equal_plans_is_the_best() -> None:
    """A tie goes to the direct answer."""
    best, lead = best_plans(OutcomeTable(TREE, torch.zeros(1, 3), torch.ones(1, len(TREE.plans))))

    assert len(TREE.plans[int(best)]) == 1
    assert not lead.any()


def test_tables_of_other_shapes_are_refused() -> None:
    """Rewards need one column for each plan."""
    with pytest.raises(InvalidSettingError, match="outcome table"):
        OutcomeTable(TREE, torch.zeros(2, 3), torch.zeros(2, 1))
