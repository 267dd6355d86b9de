"""Surface sensitivity: how much an answer depends on the surface of its question.

The raw figure is the mean Jensen-Shannon divergence between the answers' distribution on the clean
text and on scrambles of it, in bits, in [0, 1]. A calibration maps it to the probability that the
answer changes under a scramble that was not among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]


def surface_sensitivity(clean: Floats, scrambled: Floats) -> float:
    """Return the mean Jensen-Shannon divergence of an item, in bits, in [0, 1].

    Args:
        clean: Log-probabilities of the answers on the clean text, ``[A]``.
        scrambled: Log-probabilities of the same answers on each scramble, ``[K, A]``, K at least 1.

    Raises:
        InvalidScoresError: Shapes do not fit, or a row is no distribution.
    """
    left, right = np.asarray(clean, float), np.asarray(scrambled, float)
    if left.ndim != 1 or right.ndim != 2 or right.shape[1:] != left.shape or not right.size:
        raise InvalidScoresError(f"clean {left.shape}, scrambled {right.shape}: wanted [A], [K, A]")
    for name, rows in (("clean", left[None]), ("scrambled", right)):
        totals = np.exp(rows).sum(1)
        if np.isnan(rows).any() or not np.allclose(totals, 1.0, atol=1e-3):
            raise InvalidScoresError(f"{name}: a row sums to {totals.max():.3f} and not to 1")
    middle = np.logaddexp(left[None], right) - np.log(2)
    divergence = (_kl_bits(left[None], middle) + _kl_bits(right, middle)) / 2
    return float(np.clip(divergence.mean(), 0.0, 1.0))


def flip_rate(clean: str, scrambled: Sequence[str]) -> float:
    """Return the share of scrambles whose answer is another one, in [0, 1].

    Raises:
        InvalidScoresError: There is no scramble.
    """
    if not scrambled:
        raise InvalidScoresError("scrambled: no answer; at least one is needed")
    return sum(answer != clean for answer in scrambled) / len(scrambled)


@dataclass(frozen=True)
class SensitivityCalibration:
    """Increasing map from raw sensitivity to the probability of another answer.

    Attributes:
        raw: Ascending raw sensitivities of the fitted items.
        probabilities: Fitted probability at each, ascending, in [0, 1].
    """

    raw: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, raw: float) -> float:
        """Return the calibrated probability, linear between fitted items and constant beyond."""
        return float(np.interp(raw, self.raw, self.probabilities))


def fit_sensitivity_calibration(
    raw: Sequence[float], flips: Sequence[float]
) -> SensitivityCalibration:
    """Fit the calibration by isotonic regression (Zadrozny and Elkan, KDD 2002).

    Args:
        raw: Raw sensitivity of each calibration item, ``[N]``.
        flips: Share of other answers under scrambles that ``raw`` did not use, ``[N]`` in [0, 1].

    Raises:
        InvalidScoresError: Lengths differ, there is no item, or a value is out of its range.
    """
    values, rates = np.asarray(raw, float), np.asarray(flips, float)
    if values.ndim != 1 or values.shape != rates.shape or not len(values):
        raise InvalidScoresError(f"raw {values.shape}, flips {rates.shape}: wanted equal lengths")
    if not np.isfinite(values).all() or not np.all((rates >= 0) & (rates <= 1)):
        raise InvalidScoresError("raw, flips: values are not finite, or flips outside [0, 1]")
    # Equal sensitivities are one point: the regression is a function of the sensitivity.
    points, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(places, rates) / counts
    fitted = isotonic_regression(means, weights=counts).x
    return SensitivityCalibration(tuple(points.tolist()), tuple(fitted.tolist()))


def _kl_bits(left: Floats, right: Floats) -> Floats:
    """Return KL(left || right) of each row in bits; an answer of probability 0 adds nothing."""
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(left), 0.0, np.exp(left) * (left - right))
    return np.asarray(terms.sum(1) / np.log(2), dtype=np.float64)
