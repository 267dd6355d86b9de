"""Sensitivity on constructed distributions, and its calibration."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.surface_sensitivity import (
    fit_sensitivity_calibration,
    flip_rate,
    surface_sensitivity,
)

SURE = np.log([1.0 - 1e-12, 1e-12])


def test_sensitivity_is_zero_to_one_bit() -> None:
    """Equal answers 0, opposite certain answers 1, and the mean over scrambles."""
    assert surface_sensitivity(SURE, np.stack([SURE, SURE])) == pytest.approx(0, abs=1e-9)
    assert surface_sensitivity(SURE, SURE[None, ::-1]) == pytest.approx(1, abs=1e-6)
    assert surface_sensitivity(SURE, np.stack([SURE, SURE[::-1]])) == pytest.approx(0.5, abs=1e-6)
    with np.errstate(divide="ignore"):
        certain = np.log([1.0, 0.0])
    assert surface_sensitivity(certain, certain[None, ::-1]) == pytest.approx(1)


def test_sensitivity_is_the_divergence_of_its_definition() -> None:
    """H(m) - (H(p) + H(q)) / 2 in bits."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])

    def entropy(row: np.ndarray) -> float:
        return float(-(row * np.log2(row)).sum())

    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert surface_sensitivity(np.log(p), np.log(q)[None]) == pytest.approx(expected)
    assert surface_sensitivity(np.log(q), np.log(p)[None]) == pytest.approx(expected)


def test_flips_are_other_answers() -> None:
    """Two of three scrambles change the answer."""
    assert flip_rate("4", ["4", "5", "four"]) == pytest.approx(2 / 3)
    with pytest.raises(InvalidScoresError, match="no answer"):
        flip_rate("4", [])


def test_calibration_is_increasing_and_pools_what_is_not() -> None:
    """Violators are averaged by their number of items, and the map is constant beyond its ends."""
    calibrated = fit_sensitivity_calibration([0.1, 0.2, 0.2, 0.4], [0.0, 1.0, 1.0, 0.4])

    assert calibrated(0.1) == 0
    assert calibrated(0.2) == calibrated(0.4) == pytest.approx((1 + 1 + 0.4) / 3)
    assert calibrated(0.15) == pytest.approx(0.4)
    assert calibrated(-1) == 0
    assert calibrated(9) == calibrated(0.4)


def test_bad_values_are_named() -> None:
    """Rows that are no distribution and shares beyond 1 are refused."""
    with pytest.raises(InvalidScoresError, match="scrambled: a row sums to"):
        surface_sensitivity(SURE, np.zeros((1, 2)))
    with pytest.raises(InvalidScoresError, match=r"wanted \[A\], \[K, A\]"):
        surface_sensitivity(SURE, SURE)
    with pytest.raises(InvalidScoresError, match="flips outside"):
        fit_sensitivity_calibration([0.1], [2.0])
    with pytest.raises(InvalidScoresError, match="wanted equal lengths"):
        fit_sensitivity_calibration([0.1], [])
