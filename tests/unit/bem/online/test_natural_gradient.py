"""Tests of the natural-gradient step against closed forms."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.online.natural_gradient import (
    Quadratic,
    StepSettings,
    natural_direction,
    take_steps,
)
from torch import Tensor

CURVATURE = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
TARGET = torch.tensor([3.0, -1.0], dtype=torch.float64)


def quadratic(code: Tensor) -> Quadratic:
    """Return the objective whose minimum is the target."""
    away = code - TARGET
    return Quadratic(float(away @ CURVATURE @ away) / 2, CURVATURE @ away, CURVATURE)


def value(code: Tensor) -> float:
    """Return the value of the objective."""
    return quadratic(code).value


def test_direction_solves_the_damped_system() -> None:
    """``(C + 0.5 * 3 I) d = -g``: the mean diagonal of C is 3."""
    gradient = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = natural_direction(gradient, CURVATURE, damping=0.5)
    damped = CURVATURE + 1.5 * torch.eye(2, dtype=torch.float64)

    torch.testing.assert_close(damped @ found, -gradient)


def test_quadratic_is_minimised_in_one_step() -> None:
    """Without damping and bound, the first step is Newton's."""
    settings = StepSettings(steps=1, damping=0, max_divergence=1e9)
    found = take_steps(torch.zeros(2), quadratic, value, settings)

    torch.testing.assert_close(found.code, TARGET)
    assert found.steps == 1
    assert found.after == pytest.approx(0)


def test_natural_step_does_not_depend_on_the_units() -> None:
    """A change of variables c = M z changes the step to M^-1 of it, unlike the gradient."""
    change = torch.tensor([[2.0, 0.3], [0.0, 0.1]], dtype=torch.float64)
    gradient = quadratic(torch.zeros(2, dtype=torch.float64)).gradient
    step = natural_direction(gradient, CURVATURE, 0.0)
    other = natural_direction(change.T @ gradient, change.T @ CURVATURE @ change, 0.0)

    torch.testing.assert_close(change @ other, step)


def test_step_ends_at_the_trust_region() -> None:
    """A bound of 1 nat shortens the step to d^T C d = 2 along the same direction."""
    settings = StepSettings(steps=1, damping=0, max_divergence=1.0)
    found = take_steps(torch.zeros(2), quadratic, value, settings).code

    assert float(found @ CURVATURE @ found) == pytest.approx(2)
    torch.testing.assert_close(found / found.norm(), TARGET / TARGET.norm())


def test_step_that_raises_the_objective_is_not_taken() -> None:
    """A gradient of the wrong sign leaves the code where it was."""

    def uphill(code: Tensor) -> Quadratic:
        local = quadratic(code)
        return Quadratic(local.value, -local.gradient, local.curvature)

    found = take_steps(torch.zeros(2), uphill, value, StepSettings())

    assert found.steps == 0
    assert found.code.tolist() == [0, 0]
    assert found.after == found.before


def test_objective_that_is_not_a_number_ends_the_update() -> None:
    """A NaN is no improvement."""
    start = torch.zeros(2, dtype=torch.float64)
    values = iter([1.0] + [float("nan")] * 6)
    found = take_steps(start, quadratic, lambda _: next(values), StepSettings())

    assert found.steps == 0


def test_singular_curvature_is_refused() -> None:
    """Without damping and prior there is no step."""
    with pytest.raises(InvalidSettingError, match="singular or not finite"):
        natural_direction(torch.ones(2), torch.zeros(2, 2), 0.0)
    with pytest.raises(InvalidSettingError, match="singular or not finite"):
        natural_direction(torch.ones(2), torch.full((2, 2), torch.nan), 0.1)
    with pytest.raises(InvalidSettingError, match="steps and tries"):
        StepSettings(steps=0)
