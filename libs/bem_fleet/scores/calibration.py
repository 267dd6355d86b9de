"""Expected calibration error, also as a share of each item."""

from collections.abc import Sequence

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray


def calibration_gaps(
    confidences: Sequence[float], correct: Sequence[float], *, bins: int = 15
) -> NDArray[np.float64]:
    """Return each item's gap: |accuracy - mean confidence| of the bin it falls into, [n].

    Their mean is the ECE, so that the paired statistics of other scores work on them too. An
    item's gap depends on the other items: never cache it as a score of that item alone.

    Args:
        confidences: [n], in [0, 1]; bins are of equal width, a bin's upper edge belongs to it.
        correct: [n], in [0, 1]; 1 is right.
        bins: At least 1.

    Raises:
        InvalidScoresError: Different lengths, nothing, or values outside [0, 1].
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
        InvalidScoresError: As of ``calibration_gaps``.
    """
    return float(calibration_gaps(confidences, correct, bins=bins).mean())
