"""Fit of score weights and confidences."""

import pytest
import torch
from bem.memory import MemoryEncoder, MemoryModules
from bem_fleet.data.memory_tasks import MemoryItem
from bem_fleet.recipes.memory.calibration import (
    CalibrationRows,
    calibration_error,
    confidence_rows,
    coverage_rows,
    fit_logistic,
    fit_score,
    joined,
    read_session,
)
from torch import nn

from tests.unit.bem.memory.sessions import encoder, haystack

FACT = "The code of Rina is 4711."
ITEM = MemoryItem("single", (FACT,), "What is the code of Rina?", (FACT,))
ABSENT = MemoryItem("single", (), "What is the code of Tolo?", ("The code of Tolo is 1.",))
BUDGET = 128 * 1024


def own_encoder() -> MemoryEncoder:
    """Return an encoder whose modules a test may change."""
    modules = MemoryModules(encoder().modules.width)
    return MemoryEncoder(encoder().tokenizer, encoder()._states, modules)


def test_logistic_is_calibrated_on_other_rows() -> None:
    """Probabilities of the fitted model are those of the outcomes."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 3, generator=generator)
    chances = torch.sigmoid(2 * features[:, 0] - 1)
    right = (torch.rand(2000, generator=generator) < chances).float()
    layer = nn.Linear(3, 1)
    fit_logistic(layer, CalibrationRows(features[::2], right[::2]))
    others = CalibrationRows(features[1::2], right[1::2])

    assert calibration_error(layer, others) < 0.06
    assert float(layer.weight.detach()[0, 0]) == pytest.approx(2, abs=0.3)


def test_rows_of_one_outcome_give_a_rate_short_of_one() -> None:
    """Without a failure the probability is high, not 1; without rows it is a half."""
    layer = nn.Linear(3, 1)
    fit_logistic(layer, CalibrationRows(torch.randn(40, 3), torch.ones(40)))
    sure = float(torch.sigmoid(layer(torch.zeros(3)).detach()))
    fit_logistic(layer, CalibrationRows(torch.zeros(0, 3), torch.zeros(0)))

    assert 0.9 < sure < 1
    assert float(torch.sigmoid(layer(torch.zeros(3)).detach())) == 0.5


def test_sessions_give_rows_for_both_outcomes() -> None:
    """A planted fact is found, an absent one is not, and coverage knows the kept one only."""
    own = own_encoder()
    session = read_session(own, haystack(50) + FACT + "\n" + haystack(50, 50), BUDGET)
    sure = confidence_rows(session, own, (ITEM, ABSENT))
    kept = coverage_rows(session, own, (ITEM, ABSENT))

    assert sure.right.tolist() == [1, 0]
    assert sure.features.shape == (2, 4)
    assert kept.features.shape == (1, 3)
    assert kept.right.tolist() == [1]
    assert joined([sure, sure]).features.shape == (4, 4)


def test_score_weights_are_fitted() -> None:
    """The weight of rare words stays 1 and none is negative."""
    own = own_encoder()
    before = own.modules.score.detach().clone()
    fit_score(read_session(own, haystack(50) + FACT, BUDGET), own, (ITEM,), steps=20)

    assert float(own.modules.score.detach()[1]) == pytest.approx(1)
    assert bool((own.modules.score >= 0).all())
    assert not own.modules.score.equal(before)
