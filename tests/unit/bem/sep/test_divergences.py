"""Divergences against their definitions, closed forms and finite differences."""

import math

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.divergences import (
    position_weights,
    prediction_kl,
    truncate_teacher,
    truncated_kl,
    weighted_mean,
)

STUDENT, TEACHER = (
    torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
)


def test_weights_rise_between_the_two_positions() -> None:
    """0 below the start, 1 from the full position, linear between."""
    weights = position_weights(300)

    assert weights[:65].eq(0).all()
    assert weights[160] == pytest.approx(0.5)
    assert weights[256:].eq(1).all()
    with pytest.raises(InvalidSettingError, match="start, full: 5 and 5"):
        position_weights(8, 5, 5)


def test_kl_of_two_outcomes_is_its_closed_form() -> None:
    """The sum of p log(p/q) over both outcomes by position, weighted."""
    p, q = torch.tensor([0.5, 0.9]), torch.tensor([0.25, 0.9])
    teacher, student = (torch.stack((one, 1 - one), -1).log()[None] for one in (p, q))
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)

    assert prediction_kl(student, teacher).item() == pytest.approx(first / 2, abs=1e-6)
    assert prediction_kl(student, teacher, torch.tensor([1.0, 0.0])).item() == pytest.approx(first)
    assert prediction_kl(student, teacher, torch.zeros(2)).item() == 0
    assert prediction_kl(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_gradient_of_the_kl_is_the_difference_of_probabilities() -> None:
    """It is T (softmax(s / T) - softmax(t / T)) over the number of positions."""
    student = STUDENT.clone().requires_grad_()
    torch.autograd.backward(prediction_kl(student, TEACHER, temperature=2.0))
    difference = (STUDENT / 2).softmax(-1) - (TEACHER / 2).softmax(-1)

    assert student.grad is not None
    torch.testing.assert_close(student.grad, 2 * difference / 6)


def test_truncation_keeps_the_mass_and_bounds_the_kl() -> None:
    """More ids come closer from below; with one id as the rest both are equal."""
    full = prediction_kl(STUDENT, TEACHER).item()
    kept = [truncated_kl(STUDENT, truncate_teacher(TEACHER, keep)).item() for keep in (1, 2, 3, 4)]
    teacher = truncate_teacher(TEACHER, 2)

    torch.testing.assert_close(teacher.log_probabilities.exp().sum(-1), torch.ones(2, 3))
    assert kept == sorted(kept)
    assert kept[0] >= 0
    assert kept[3] == pytest.approx(full, abs=1e-5)
    assert kept[0] < full
    with pytest.raises(InvalidSettingError, match=r"keep: 5; it lies in \[1, 4\]"):
        truncate_teacher(TEACHER, 5)


def test_truncated_kl_has_the_gradient_of_finite_differences() -> None:
    """Autograd agrees with central differences in float64."""
    teacher = truncate_teacher(TEACHER, 2)
    student = STUDENT[:1, :2].double().requires_grad_()
    small = truncate_teacher(TEACHER[:1, :2], 2)
    torch.autograd.backward(truncated_kl(student, small))
    step, index = 1e-2, (0, 1, 3)
    moved = [STUDENT[:1, :2].double().clone() for _ in range(2)]
    moved[0][index] += step
    moved[1][index] -= step
    slope = (truncated_kl(moved[0], small) - truncated_kl(moved[1], small)).item() / (2 * step)

    assert teacher.ids.shape == (2, 3, 2)
    assert student.grad is not None
    assert student.grad[index].item() == pytest.approx(slope, abs=1e-4)


def test_mean_by_weights() -> None:
    """Weights of positions hold for every row."""
    values = torch.tensor([[1.0, 2.0], [3.0, 6.0]])

    assert weighted_mean(values, None).item() == 3
    assert weighted_mean(values, torch.tensor([0.0, 2.0])).item() == 4
