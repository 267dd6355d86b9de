"""Expected calibration error (ECE), in total and per item."""

from collections.abc import Sequence

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray


def calibration_gaps(
    confidences: Sequence[float], correct: Sequence[float], *, bins: int = 15
) -> NDArray[np.float64]:
    """Return |accuracy - mean confidence| of each item's confidence bin, [n].

    The mean of the gaps is the ECE, so that paired statistics apply to them as to other scores.
    The gap of an item depends on the other items and must not be cached as a score of its own.

    Args:
        confidences: Confidence of each item in [0, 1], [n]; bins have equal width and include their
            upper edge.
        correct: Correctness of each item in [0, 1], [n]; 1 is correct.
        bins: Number of bins, at least 1.

    Raises:
        InvalidScoresError: Lengths differ, arrays are empty, or values lie outside [0, 1].
    """
    sure, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if sure.shape != right.shape or sure.ndim != 1 or sure.size == 0:
        raise InvalidScoresError(
            f"confidences {sure.shape} and correct {right.shape} must be of one length, 1 or more"
        )
    if bins < 1:
        raise InvalidScoresError(f"bins: {bins}; at least 1")
    for name, values in (("confidences", sure), ("correct", right)):
        if not np.all((values >= 0) & (values <= 1)):
            raise InvalidScoresError(f"{name}: values outside [0, 1] or NaN")
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    totals = np.bincount(place, right - sure, minlength=bins)
    gaps = np.abs(totals) / np.maximum(count, 1)
    return np.asarray(gaps[place], dtype=np.float64)


def expected_calibration_error(
    confidences: Sequence[float], correct: Sequence[float], *, bins: int = 15
) -> float:
    """Return the ECE in [0, 1] (Naeini et al., AAAI 2015; Guo et al., arXiv 1706.04599).

    Raises:
        InvalidScoresError: The conditions of ``calibration_gaps`` are not met.
    """
    return float(calibration_gaps(confidences, correct, bins=bins).mean())
