"""Validation of score arrays, shared by every statistic of the package."""

from typing import Any

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def validate_scores(values: ArrayLike, name: str, *, ndim: int = 1) -> FloatArray:
    """Return ``values`` as float64 [n] or [seeds, items].

    Args:
        values: Numbers; booleans count as 0 and 1.
        name: Field name for error messages.
        ndim: Required number of axes, 1 or 2.

    Raises:
        InvalidScoresError: Values are not numbers, have another number of axes, are empty, NaN or
            infinite.
    """
    try:
        array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise InvalidScoresError(f"{name}: not an array of numbers ({err})") from err
    if array.ndim != ndim:
        axes = "[items]" if ndim == 1 else "[seeds, items]"
        raise InvalidScoresError(f"{name}: shape {array.shape}; wanted {axes}")
    if array.size == 0:
        raise InvalidScoresError(f"{name}: no scores; at least one is needed")
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise InvalidScoresError(f"{name}: {bad} of {array.size} scores are NaN or infinite")
    return array


def validate_pairs(
    mission: ArrayLike, baseline: ArrayLike, *, ndim: int = 1
) -> tuple[FloatArray, FloatArray]:
    """Return both sides of a paired comparison as float64 arrays of one shape.

    Raises:
        InvalidScoresError: The conditions of ``validate_scores`` are not met, or the shapes differ.
    """
    left = validate_scores(mission, "mission", ndim=ndim)
    right = validate_scores(baseline, "baseline", ndim=ndim)
    if left.shape != right.shape:
        raise InvalidScoresError(
            f"mission has shape {left.shape}, baseline {right.shape}; "
            "a paired comparison needs the same items on both sides"
        )
    return left, right


def validate_fraction(value: float, name: str) -> float:
    """Return ``value`` if it lies strictly between 0 and 1.

    Raises:
        InvalidScoresError: The value is 0 or less, or 1 or more.
    """
    if not 0 < value < 1:
        raise InvalidScoresError(f"{name} is {value}; it must lie between 0 and 1, both excluded")
    return value
