"""Calibration of coverage and confidence over a session of the tiny model."""

import pytest
from bem_fleet.data.memory_tasks import MemoryItem
from bem_fleet.studies.memory.asked_text import AskedText
from bem_fleet.studies.memory.coverage_calibration import (
    all_outcomes,
    calibrations,
    session_outcomes,
)

from tests.unit.bem.memory.sessions import encoder, haystack

FACT = "The code of Rina is 4711."
PRESENT = MemoryItem("single", (FACT,), "What is the code of Rina?", (FACT,))
ABSENT = MemoryItem("single", (), "What is the code of Tolo?", ("The code of Tolo is 1.",))


def test_error_is_that_of_the_stated_probabilities() -> None:
    """One kept and found slot: the error is what its probability lacks to 1."""
    asked = AskedText(haystack(40) + FACT + "\n", {"single": [PRESENT]}, [ABSENT], "made")
    outcomes = session_outcomes(encoder(), asked, 1024 * 1024)
    found = calibrations(encoder(), outcomes)
    sure = float(encoder().modules.coverages(outcomes.coverage.features)[0])

    assert found["coverage"]["rows"] == 1
    assert found["coverage"]["ece"] == pytest.approx(1 - sure, abs=1e-6)
    assert found["coverage"]["auc"] is None
    assert found["confidence"]["right"] == 0.5
    assert found["confidence"]["auc"] == 1
    assert calibrations(encoder(), all_outcomes([outcomes] * 2))["confidence"]["rows"] == 4


def test_nothing_kept_has_no_error() -> None:
    """Without a kept answer there is nothing to be calibrated."""
    asked = AskedText(haystack(10), {"single": [ABSENT]}, [], "made")
    found = calibrations(encoder(), session_outcomes(encoder(), asked, 1024 * 1024))

    assert found["coverage"] == {"ece": None, "rows": 0, "right": 0.0, "auc": None}
