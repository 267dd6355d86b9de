"""Generalised advantage estimation (arXiv 1506.02438)."""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, alive: Tensor, *, discount: float, smoothing: float
) -> Tensor:
    """Return advantages ``A_t = sum_l (discount smoothing)^l delta_{t+l}``.

    ``delta_t = r_t + discount V_{t+1} - V_t``, and V is 0 after the last step of an episode.

    Args:
        rewards: ``[E, T]`` reward of each step.
        values: ``[E, T]`` value of each state.
        alive: ``[E, T]`` whether the episode takes the step; it never resumes after its end.
        discount: Discount of later rewards, in [0, 1].
        smoothing: Lambda of the exponential average, in [0, 1]; 1 is the return less the value.

    Returns:
        ``[E, T]``; 0 where no step is taken.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        taken = alive[:, step].to(rewards.dtype)
        delta = rewards[:, step] + discount * next_value - values[:, step]
        following = taken * (delta + discount * smoothing * following)
        next_value = taken * values[:, step]
        advantages[:, step] = following
    return advantages
