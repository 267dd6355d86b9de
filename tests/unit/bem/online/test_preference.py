"""Tests of the preference loss against autograd and limits."""

import math

import torch
from bem.online.preference import preference_terms


def test_derivatives_are_those_of_the_loss() -> None:
    """First and second derivative equal autograd's, for good and bad replies."""
    nll = torch.tensor([3.0, 5.0, 9.0], dtype=torch.float64, requires_grad=True)
    live = torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    terms = preference_terms(nll, live, signs, beta=0.5)
    (slopes,) = torch.autograd.grad(terms.values.sum(), nll, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), nll)

    torch.testing.assert_close(terms.slopes, slopes)
    torch.testing.assert_close(terms.curvatures, curvatures)


def test_loss_at_the_live_version_is_one_bit() -> None:
    """Without a difference the loss is log 2, and it pulls by beta / 2 in the rated direction."""
    nll = torch.tensor([7.0, 7.0], dtype=torch.float64)
    terms = preference_terms(nll, nll, torch.tensor([1.0, -1.0]), beta=0.1)

    assert terms.values.tolist() == [math.log(2)] * 2
    torch.testing.assert_close(terms.slopes, torch.tensor([0.05, -0.05], dtype=torch.float64))


def test_bad_reply_is_pushed_away_only_so_far() -> None:
    """A reply that is improbable already is no longer pushed."""
    terms = preference_terms(
        torch.tensor([500.0]), torch.tensor([5.0]), torch.tensor([-1.0]), beta=0.1
    )

    assert float(terms.slopes.abs()) < 1e-15
