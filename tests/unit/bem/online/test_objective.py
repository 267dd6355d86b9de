"""Tests of the objective against closed forms of a softmax model."""

from dataclasses import replace

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.online.feedback import FeedbackExample
from bem.online.objective import FeedbackObjective, ObjectiveSettings
from torch import Tensor

from tests.unit.bem.online.softmax_model import WIDTH, SoftmaxModel

LIVE = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
CODE = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
CORRECTION = FeedbackExample("e0", "c", "u", (0,), (1, 1, 3), weight=2.0)
HINTED = FeedbackExample("e1", "c", "u", (1,), (2,), hinted=(3,))
GOOD = FeedbackExample("e2", "c", "u", (2,), (0, 4), kind="good")
BAD = FeedbackExample("e3", "c", "u", (3,), (1,), kind="bad", weight=0.5)


def objective(*examples: FeedbackExample, draws: int = 4) -> FeedbackObjective:
    """Return the objective of examples."""
    return FeedbackObjective(SoftmaxModel(), examples, LIVE, ObjectiveSettings(draws=draws))


def numeric_gradient(of: FeedbackObjective, code: Tensor) -> Tensor:
    """Return central differences of the objective."""
    eye = 1e-5 * torch.eye(WIDTH, dtype=torch.float64)
    return torch.tensor([(of.value(code + e) - of.value(code - e)) / 2e-5 for e in eye])


def test_correction_counts_a_token_and_by_its_weight() -> None:
    """Three tokens with the weight 2 give two thirds of the summed negative log-likelihood."""
    words = SoftmaxModel().log_probabilities(CODE, 0)

    assert objective(CORRECTION).value(CODE) == pytest.approx(
        -2 / 3 * float(2 * words[1] + words[3])
    )


def test_hint_adds_the_divergence_from_the_hinted_model() -> None:
    """The teacher is the live version after the hinted prompt, over all five words."""
    teacher = SoftmaxModel().log_probabilities(LIVE, 3)
    student = SoftmaxModel().log_probabilities(CODE, 1)
    divergence = float((teacher.exp() * (teacher - student)).sum())
    unhinted = objective(replace(HINTED, hinted=())).value(CODE)

    assert objective(HINTED).value(CODE) == pytest.approx(unhinted + divergence, rel=1e-5)


@pytest.mark.parametrize("examples", [(CORRECTION,), (HINTED,), (GOOD, BAD), (CORRECTION, BAD)])
def test_gradient_is_that_of_the_value(examples: tuple[FeedbackExample, ...]) -> None:
    """Every kind of feedback has the gradient of its own loss."""
    made = objective(*examples)
    value, gradient = made.gradient(CODE)

    assert value == pytest.approx(made.value(CODE))
    torch.testing.assert_close(
        gradient, numeric_gradient(made, CODE).double(), atol=1e-4, rtol=1e-3
    )


def test_curvature_is_the_fisher_matrix_of_the_tokens() -> None:
    """Many drawn replies average to the closed form: weight 2, divided by 3 tokens, times 3."""
    exact = 2 * SoftmaxModel().fisher(CODE, 0)
    found = objective(CORRECTION, draws=40_000).curvature(CODE, seed=1)

    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)
    assert found.equal(objective(CORRECTION, draws=40_000).curvature(CODE, seed=1))


def test_rated_reply_bends_along_its_gradient() -> None:
    """The curvature of one rated reply has rank 1 and the preference loss's second derivative."""
    words = SoftmaxModel().log_probabilities
    gap = 0.1 * float((words(CODE, 2) - words(LIVE, 2))[[0, 4]].sum())
    share = 1 / (1 + torch.tensor(gap).exp())
    losses = SoftmaxModel().losses(CODE, [GOOD], [None], gradients=True)
    assert losses.nll_gradients is not None
    slope = losses.nll_gradients[0]
    expected = 0.5 * 0.01 * float(share * (1 - share)) * torch.outer(slope, slope)

    torch.testing.assert_close(objective(GOOD).curvature(CODE, seed=0), expected, rtol=1e-5, atol=0)


def test_settings_out_of_range_are_refused() -> None:
    """A model without draws has no Fisher matrix."""
    with pytest.raises(InvalidSettingError, match="draws at least 1"):
        ObjectiveSettings(draws=0)
