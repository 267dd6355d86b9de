"""Invariance losses against closed forms and finite differences."""

import math

import pytest
import torch
from bem.sep.invariance import (
    CipherAdversary,
    code_invariance,
    covariance_loss,
    layer_matching,
    reverse_gradient,
    variance_loss,
)
from torch.autograd import gradcheck

GENERATOR = torch.Generator().manual_seed(0)
CODES, OTHERS = (torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def test_matching_is_zero_for_equal_states_and_by_hand_otherwise() -> None:
    """Opposite states are at cosine distance 2; half the smooth L1 distance is added."""
    state = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    opposite = torch.tensor([[[-3.0, -4.0], [1.0, 0.0]]])
    smooth = ((6 - 0.5) + (8 - 0.5)) / 2

    assert layer_matching(state, state).item() == pytest.approx(0)
    expected = 2 + 0.5 * smooth
    assert layer_matching(state, opposite).item() == pytest.approx(expected / 2)
    assert layer_matching(state, opposite, torch.tensor([1.0, 0.0])).item() == pytest.approx(
        expected
    )


def test_codes_are_invariant_when_equal() -> None:
    """The mean squared difference, symmetric."""
    assert code_invariance(CODES, CODES).item() == 0
    assert code_invariance(CODES, CODES + 2).item() == pytest.approx(4)


def test_variance_asks_for_the_floor_and_no_more() -> None:
    """Two points at distance 1 have variance 1/2; a collapsed feature costs nearly the floor."""
    codes = torch.tensor([[0.0, 0.0, 10.0], [1.0, 0.0, -10.0]])
    expected = ((1 - math.sqrt(0.5 + 1e-4)) + (1 - math.sqrt(1e-4)) + 0) / 3

    assert variance_loss(codes).item() == pytest.approx(expected, abs=1e-6)


def test_covariance_is_that_of_different_features() -> None:
    """The off-diagonal squares of torch's covariance over F; uncorrelated features cost 0."""
    covariance = CODES.T.cov()
    squares = (covariance - covariance.diag().diag()).square().sum()

    assert covariance_loss(CODES).item() == pytest.approx(squares.item() / 4)
    crossed = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert covariance_loss(crossed).item() == 0


def test_gradients_are_those_of_finite_differences() -> None:
    """Autograd agrees with central differences for every loss of codes."""
    codes, others = CODES.clone().requires_grad_(), OTHERS.clone().requires_grad_()

    assert gradcheck(lambda one: variance_loss(one, 2.0), (codes,))
    assert gradcheck(covariance_loss, (codes,))
    assert gradcheck(code_invariance, (codes, others))
    assert gradcheck(
        lambda one, two: layer_matching(one[None], two[None]), (codes, others), atol=1e-4
    )


def test_reversal_turns_the_gradient() -> None:
    """Values pass unchanged, and gradients come back times minus the strength."""
    codes = CODES.clone().requires_grad_()
    out = reverse_gradient(codes, 0.25)
    torch.autograd.backward((out * OTHERS).sum())

    assert torch.equal(out, CODES)
    assert codes.grad is not None
    torch.testing.assert_close(codes.grad, -0.25 * OTHERS)


def test_adversary_reads_keys_and_pushes_codes_away() -> None:
    """It starts near chance, learns keys that codes carry, and its gradient hides them."""
    torch.manual_seed(0)
    keys = torch.stack([torch.arange(5).roll(shift) for shift in range(5)])
    codes = torch.eye(5)[:, :4].clone().requires_grad_()
    adversary = CipherAdversary(4, 5, torch.tensor([0, 3]), strength=0.5)
    first = adversary(codes, keys)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(adversary(codes.detach(), keys))
        optimizer.step()
    learnt = adversary(codes, keys)
    torch.autograd.backward(learnt)

    assert first.item() == pytest.approx(math.log(5), abs=0.5)
    assert learnt.item() < 0.3
    assert codes.grad is not None
    assert adversary(codes.detach() - 0.1 * codes.grad, keys) > learnt
