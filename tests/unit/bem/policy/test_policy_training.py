"""Tests of behaviour cloning and TRPO on a small outcome table."""

from dataclasses import replace

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.network import PolicyNetwork
from bem.policy.outcomes import OutcomeTable, node_states
from bem.policy.plan_tree import PlanTree
from bem.policy.policy_training import PolicyTraining, train_policy
from torch import Tensor

TREE = PlanTree(DEFAULT_ACTIONS)
SETTINGS = PolicyTraining(clone_steps=120, updates=0, episodes=128, hidden=16)


def two_kinds(items: int = 80) -> OutcomeTable:
    """Return a table in which the first feature decides between a direct answer and a chain."""
    features = torch.randn(items, 4, generator=torch.Generator().manual_seed(1))
    direct = [len(plan) == 1 for plan in TREE.plans].index(True)
    chain = [len(plan) == 3 for plan in TREE.plans].index(True)
    rewards = torch.full((items, len(TREE.plans)), 0.2)
    rows = torch.arange(items)
    rewards[rows, torch.where(features[:, 0] > 0, direct, chain)] = 0.9
    return OutcomeTable(TREE, features, rewards)


@torch.no_grad()
def plan_chances(policy: PolicyNetwork, table: OutcomeTable) -> Tensor:
    """Return the probability of each plan on each item."""
    states = node_states(TREE, table.features)
    return TREE.plan_log_probabilities(policy(states, TREE.masks)).exp()


def mean_reward(table: OutcomeTable, settings: PolicyTraining) -> float:
    """Return the exact mean reward of the policy that these settings train."""
    chances = plan_chances(train_policy(table, settings).policy, table)
    return float((chances * table.rewards).sum(1).mean())


def test_cloning_learns_the_best_plan_of_each_kind() -> None:
    """The loss falls, and the cloned policy takes nearly always the better plan."""
    table = two_kinds()

    trained = train_policy(table, SETTINGS)

    assert trained.clone_losses[-1] < 0.5 * trained.clone_losses[0]
    chances = plan_chances(trained.policy, table)
    assert float((chances * table.rewards).sum(1).mean()) > 0.6


def test_trpo_improves_an_untrained_policy_within_the_trust_region() -> None:
    """Every update keeps the divergence, and the expected reward grows."""
    table = two_kinds()
    untrained = replace(SETTINGS, clone_steps=0)
    settings = replace(untrained, updates=25)

    updates = train_policy(table, settings).updates

    assert len(updates) == 25
    assert sum(one.accepted for one in updates) > 15
    assert all(0 <= one.kl <= settings.max_kl for one in updates)
    assert mean_reward(table, settings) > mean_reward(table, untrained) + 0.1


def test_the_same_seed_gives_the_same_policy() -> None:
    """Training is deterministic."""
    settings = replace(SETTINGS, clone_steps=5, updates=2)

    first, second = (train_policy(two_kinds(), settings).policy.state_dict() for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_entropy_bonus_falls_to_its_last_value() -> None:
    """The first and the last update have the two settings."""
    settings = PolicyTraining()

    assert settings.bonus(0) == pytest.approx(0.01)
    assert settings.bonus(99) == pytest.approx(0.001)


def test_action_values_learn_the_reward_of_each_plan() -> None:
    """The value of the last action of a plan approaches its reward."""
    table = two_kinds()
    trained = train_policy(table, replace(SETTINGS, clone_steps=400))

    found = trained.values(table.states())
    ends = torch.stack([found[:, *TREE.path(place)[-1]] for place in range(len(TREE.plans))], 1)

    assert float((ends - table.rewards).detach().abs().mean()) < 0.1


def test_settings_out_of_range_are_refused() -> None:
    """A rising entropy bonus is no schedule of this training."""
    with pytest.raises(InvalidSettingError, match="policy training"):
        PolicyTraining(entropy_bonus=0.001, final_entropy_bonus=0.01)
