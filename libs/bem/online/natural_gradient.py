"""Natural-gradient step of a code within a trust region (Amari 1998; arXiv 1502.05477).

A code has few numbers, so the curvature is formed and factorised instead of being approximated by
its diagonal. The step is ``-(C + damping mean(diag C) I)^-1 g``. It is shortened to the trust
region ``d^T C d / 2 <= max_divergence``, and halved until the measured objective falls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidSettingError

_BACKTRACK = 0.5


@dataclass(frozen=True)
class StepSettings:
    """Settings of the steps of one update.

    Attributes:
        steps: Most steps of an update.
        damping: Share of the mean diagonal of the curvature that is added to its diagonal.
        max_divergence: Largest ``d^T C d / 2`` of one step, nats over the batch.
        tries: Most lengths of a step that are tried before the update ends.
        tolerance: Smallest fall of the objective that is worth another step, nats.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    steps: int = 8
    damping: float = 0.01
    max_divergence: float = 8.0
    tries: int = 6
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tries < 1 or self.damping < 0 or not self.max_divergence > 0:
            raise InvalidSettingError(
                "step: steps and tries are at least 1, damping at least 0 and max_divergence above "
                f"0; got {self}"
            )


@dataclass(frozen=True, eq=False)
class Quadratic:
    """Objective around one code to second order.

    Attributes:
        value: Objective at the code, nats.
        gradient: ``[P]`` gradient.
        curvature: ``[P, P]`` positive semi-definite curvature, Fisher and penalty.
    """

    value: float
    gradient: Tensor
    curvature: Tensor


@dataclass(frozen=True, eq=False)
class StepRecord:
    """Result of the steps of one update.

    Attributes:
        code: ``[P]`` float64 code.
        before: Objective before the first step, nats.
        after: Objective after the last step, nats.
        steps: Number of steps that were taken.
    """

    code: Tensor
    before: float
    after: float
    steps: int


def natural_direction(gradient: Tensor, curvature: Tensor, damping: float) -> Tensor:
    """Return ``-(C + damping mean(diag C) I)^-1 g``, ``[P]`` float64.

    Args:
        gradient: ``[P]`` gradient g.
        curvature: ``[P, P]`` positive semi-definite curvature C.
        damping: Share of the mean diagonal that is added, at least 0.

    Raises:
        InvalidSettingError: The matrix is singular or not finite, so that there is no step.
    """
    curvature = curvature.double()
    damped = curvature + damping * curvature.diagonal().mean() * torch.eye(
        len(curvature), dtype=torch.float64
    )
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed) or not bool(factor.isfinite().all()):
        raise InvalidSettingError(
            "curvature: it is singular or not finite; use a damping or a prior above 0"
        )
    return -torch.cholesky_solve(gradient.double()[:, None], factor)[:, 0]


def take_steps(
    code: Tensor,
    expand: Callable[[Tensor], Quadratic],
    measure: Callable[[Tensor], float],
    settings: StepSettings,
) -> StepRecord:
    """Lower an objective by natural-gradient steps; it never ends higher than it began.

    Args:
        code: ``[P]`` first code.
        expand: Returns the objective to second order at a code.
        measure: Returns the objective at a code.
        settings: Settings of the steps.
    """
    code = code.detach().double()
    before = value = measure(code)
    taken = 0
    for _ in range(settings.steps):
        local = expand(code)
        step = natural_direction(local.gradient, local.curvature, settings.damping)
        cost = float(step @ local.curvature.double() @ step) / 2
        if cost > settings.max_divergence:
            step = step * (settings.max_divergence / cost) ** 0.5
        tried = _line_search(code, step, value, measure, settings)
        if tried is None:
            break
        code, value, fall = tried[0], tried[1], value - tried[1]
        taken += 1
        if fall < settings.tolerance:
            break
    return StepRecord(code, before, value, taken)


def _line_search(
    code: Tensor,
    step: Tensor,
    value: float,
    measure: Callable[[Tensor], float],
    settings: StepSettings,
) -> tuple[Tensor, float] | None:
    """Return the first shortened step that lowers the objective, with its value; None if none."""
    for attempt in range(settings.tries):
        tried = code + _BACKTRACK**attempt * step
        # A NaN lowers nothing.
        if (now := measure(tried)) < value:
            return tried, now
    return None
