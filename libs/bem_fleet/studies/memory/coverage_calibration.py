"""Calibration of what a session says about itself: coverage of kept slots, and confidence."""

from dataclasses import asdict, dataclass

import torch
from bem.memory import MemoryEncoder
from sklearn.metrics import roc_auc_score
from torch import nn

from bem_fleet.recipes.memory.calibration import (
    CalibrationRows,
    calibration_error,
    confidence_rows,
    coverage_rows,
    joined,
    read_session,
)
from bem_fleet.studies.memory.asked_text import AskedText


@dataclass(frozen=True)
class SessionOutcomes:
    """Features and outcomes of one session or several.

    Attributes:
        coverage: Kept slots, and whether the question about each finds it.
        confidence: Questions with and without an answer, and whether the evidence has it.
    """

    coverage: CalibrationRows
    confidence: CalibrationRows


def session_outcomes(encoder: MemoryEncoder, asked: AskedText, budget: int) -> SessionOutcomes:
    """Read a text and ask all of its items.

    Args:
        encoder: Encoder with the modules to judge.
        asked: Text with its items.
        budget: Bytes of the session.
    """
    session = read_session(encoder, asked.text, budget)
    items = [one for task in asked.items.values() for one in task]
    kept = coverage_rows(session, encoder, items)
    return SessionOutcomes(kept, confidence_rows(session, encoder, (*items, *asked.absent)))


def all_outcomes(outcomes: list[SessionOutcomes]) -> SessionOutcomes:
    """Return the outcomes of several sessions as one."""
    return SessionOutcomes(
        joined([one.coverage for one in outcomes]), joined([one.confidence for one in outcomes])
    )


@dataclass(frozen=True)
class Calibration:
    """Calibration of one logistic model.

    Attributes:
        ece: Expected calibration error in [0, 1]; None without rows.
        rows: Number of slots or questions.
        right: Share of them that were found, in [0, 1].
        auc: How often a found one has the higher probability, ties counted half, in [0, 1]; None
            without both outcomes. A constant at the base rate has an ECE near 0 and an AUC of 0.5.
    """

    ece: float | None
    rows: int
    right: float
    auc: float | None


def calibrations(encoder: MemoryEncoder, outcomes: SessionOutcomes) -> dict[str, dict[str, object]]:
    """Return the calibration of coverage and confidence, by name, for a report."""
    modules = encoder.modules
    return {
        "coverage": asdict(_calibration(modules.coverage, outcomes.coverage)),
        "confidence": asdict(_calibration(modules.confidence, outcomes.confidence)),
    }


def _calibration(layer: nn.Linear, rows: CalibrationRows) -> Calibration:
    count = len(rows.right)
    if not count:
        return Calibration(None, 0, 0.0, None)
    right = float(rows.right.mean())
    return Calibration(calibration_error(layer, rows), count, right, _auc(layer, rows))


@torch.no_grad()
def _auc(layer: nn.Linear, rows: CalibrationRows) -> float | None:
    if len(rows.right.unique()) < 2:
        return None
    return float(roc_auc_score(rows.right.numpy(), layer(rows.features).squeeze(-1).numpy()))
