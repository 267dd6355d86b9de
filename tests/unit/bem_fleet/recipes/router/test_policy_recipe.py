"""Tests of the policy recipe on made-up outcomes."""

import torch
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.plan_tree import PlanTree
from bem.policy.policy_training import PolicyTraining
from bem.testing import tiny_backbone
from bem_fleet.recipes.router.plan_outcomes import PlanOutcomes
from bem_fleet.recipes.router.policy_recipe import PolicyProvenance, make_policy

TREE = PlanTree(DEFAULT_ACTIONS)


def made_up(items: int, seed: int) -> PlanOutcomes:
    """Return outcomes in which the first state decides between a direct answer and a chain."""
    states = torch.randn(items, 6, generator=torch.Generator().manual_seed(seed))
    states[:, 0] *= 3  # a direction of large variance, which the projection keeps
    direct = [len(plan) == 1 for plan in TREE.plans].index(True)
    chain = [len(plan) == 3 for plan in TREE.plans].index(True)
    exact = torch.zeros(items, len(TREE.plans))
    exact[torch.arange(items), torch.where(states[:, 0] > 0, direct, chain)] = 1
    return PlanOutcomes(
        actions=tuple(str(action) for action in TREE.actions),
        horizon=3,
        items=tuple(f"{seed}-{item}" for item in range(items)),
        clusters=("c",) * items,
        parts=("seen",) * items,
        states=states,
        evidence=torch.zeros(items, 8),
        exact=exact,
        overlap=exact,
        misses=torch.full_like(exact, 0.5),
    )


def test_a_policy_beats_the_best_fixed_plan_where_items_differ() -> None:
    """The card has the origin, the divergence of each update and the figures on dev."""
    settings = PolicyTraining(clone_steps=80, updates=6, episodes=128, hidden=16)
    train = made_up(200, 1)

    artifact = make_policy(
        tiny_backbone(), train, made_up(100, 2), settings, PolicyProvenance("test", 1)
    )

    metrics = artifact.card.metrics
    assert metrics["oracle_exact_match"] == 1
    assert metrics["exact_match"] > metrics["fixed_exact_match"] + 0.2
    assert 1 <= metrics["plan_length"] <= 3
    assert metrics["flip_rate_with_hysteresis"] <= metrics["flip_rate"]
    assert metrics["largest_kl"] <= settings.max_kl
    assert len(artifact.card.kl) == 6
    assert artifact.card.data_digest == train.digest
    assert artifact.reference.shape == (100, artifact.projection.width)
