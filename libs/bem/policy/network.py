"""Policy and action-value networks over the actions of a plan tree."""

import torch
from torch import Tensor, nn

FORBIDDEN = -1e30
"""Logit of a forbidden action: its probability is exactly 0, and no difference is NaN."""


class PolicyNetwork(nn.Module):
    """Categorical policy over macro-actions, masked by the contracts.

    The logit of an action is the sum of one logit for its adapter, its scope, its span and its
    rank budget, so that actions that share a factor learn from each other.

    Args:
        feature_dim: Width F of a state.
        factors: ``[A, K]`` factors of the actions, as in ``PlanTree``.
        hidden: Width of the hidden layer.
    """

    factors: Tensor

    def __init__(self, feature_dim: int, factors: Tensor, hidden: int = 64) -> None:
        super().__init__()
        # Names of submodules are tensor names in stored artifacts.
        self.inner = nn.Linear(feature_dim, hidden)
        self.head = nn.Linear(hidden, factors.shape[1])
        self.register_buffer("factors", factors.clone(), persistent=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Return log-probabilities: ``[..., F]`` and ``[..., A]`` to ``[..., A]``."""
        logits = self.head(torch.tanh(self.inner(features))) @ self.factors.T
        return torch.log_softmax(logits.masked_fill(~masks, FORBIDDEN), dim=-1)


class ActionValueNetwork(nn.Module):
    """Expected reward of the rest of a plan after each action.

    Args:
        feature_dim: Width F of a state.
        actions: Number of actions A.
        hidden: Width of the hidden layer.
    """

    def __init__(self, feature_dim: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.inner = nn.Linear(feature_dim, hidden)
        self.head = nn.Linear(hidden, actions)

    def forward(self, features: Tensor) -> Tensor:
        """Return action values: ``[..., F]`` to ``[..., A]``."""
        values: Tensor = self.head(torch.tanh(self.inner(features)))
        return values


def entropy(log_probabilities: Tensor) -> Tensor:
    """Return the entropy in nats of ``[..., A]`` log-probabilities, ``[...]``."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def kl_divergence(old: Tensor, new: Tensor) -> Tensor:
    """Return KL(old || new) in nats of ``[..., A]`` log-probabilities, ``[...]``.

    A forbidden action has the same log-probability in both and adds nothing.
    """
    return (old.exp() * (old - new)).sum(-1)
