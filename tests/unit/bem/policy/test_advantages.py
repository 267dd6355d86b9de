"""Tests of generalised advantage estimation."""

import torch
from bem.policy.advantages import generalized_advantages

REWARDS = torch.tensor([[0.0, 0.0, 1.0], [0.5, 9.0, 9.0]])
VALUES = torch.tensor([[0.2, 0.4, 0.6], [0.1, 9.0, 9.0]])
ALIVE = torch.tensor([[True, True, True], [True, False, False]])


def test_smoothing_of_one_is_the_return_less_the_value() -> None:
    """Lambda 1 without discount is Monte Carlo; steps after the end count nothing."""
    found = generalized_advantages(REWARDS, VALUES, ALIVE, discount=1.0, smoothing=1.0)

    assert torch.allclose(found, torch.tensor([[0.8, 0.6, 0.4], [0.4, 0.0, 0.0]]))


def test_smoothing_of_zero_is_the_temporal_difference() -> None:
    """Lambda 0 looks one step ahead."""
    found = generalized_advantages(REWARDS, VALUES, ALIVE, discount=0.5, smoothing=0.0)

    assert torch.allclose(found, torch.tensor([[0.0, -0.1, 0.4], [0.4, 0.0, 0.0]]), atol=1e-6)
