"""Tests of the policy and action-value networks."""

import torch
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.network import ActionValueNetwork, PolicyNetwork, entropy, kl_divergence
from bem.policy.plan_tree import PlanTree


def test_forbidden_actions_have_probability_zero() -> None:
    """A fresh policy is uniform over the allowed actions and never takes another one."""
    tree = PlanTree(DEFAULT_ACTIONS)
    policy = PolicyNetwork(tree.features.shape[1], tree.factors)

    chances = policy(tree.features, tree.masks).exp()

    assert torch.all(chances[~tree.masks] == 0)
    expected = tree.masks / tree.masks.sum(-1, keepdim=True)
    assert torch.allclose(chances, expected.float(), atol=1e-6)


def test_divergence_and_entropy_ignore_forbidden_actions() -> None:
    """Both are finite, and equal those of the allowed actions alone."""
    logits = torch.tensor([[0.3, -1.0, 0.9]], dtype=torch.float64)
    masks = torch.tensor([[True, True, False]])
    old = torch.log_softmax(logits.masked_fill(~masks, -1e30), -1)
    new = torch.log_softmax((2 * logits).masked_fill(~masks, -1e30), -1)
    p, q = old[0, :2], new[0, :2]

    assert torch.allclose(kl_divergence(old, new), (p.exp() * (p - q)).sum())
    assert torch.allclose(entropy(old), -(p.exp() * p).sum())


def test_action_values_have_one_number_for_each_action() -> None:
    """The shape follows the states."""
    assert ActionValueNetwork(5, 7)(torch.zeros(2, 3, 5)).shape == (2, 3, 7)
