"""Validation of score arrays, shared by every statistic of the package."""

import math
from typing import Any, get_args

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

LARGEST_SCORE = 1e100
"""Largest absolute score: third powers of scores within it stay finite in float64."""

# Two floating-point computations of one score, such as a mean over seeds in another order, differ
# by a few units in the last place.
_ROUNDING = 1e-12


def validate_scores(values: ArrayLike, name: str, *, ndim: int = 1) -> FloatArray:
    """Return ``values`` as float64 [n] or [seeds, items].

    Args:
        values: Integers, floating-point numbers or booleans, which count as 0 and 1. Text is no
            number, and a masked array has items that the other side of a pair lacks.
        name: Field name for error messages.
        ndim: Required number of axes, 1 or 2.

    Raises:
        InvalidScoresError: Values are not real numbers, are masked, have another number of axes,
            are empty, NaN, infinite, or larger than ``LARGEST_SCORE``.
    """
    array = _as_floats(values, name)
    if array.ndim != ndim:
        axes = "[items]" if ndim == 1 else "[seeds, items]"
        raise InvalidScoresError(f"{name}: shape {array.shape}; wanted {axes}")
    if array.size == 0:
        raise InvalidScoresError(f"{name}: no scores; at least one is needed")
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise InvalidScoresError(f"{name}: {bad} of {array.size} scores are NaN or infinite")
    if (largest := float(np.abs(array).max())) > LARGEST_SCORE:
        raise InvalidScoresError(
            f"{name}: {largest:g} is too large; scores lie within {LARGEST_SCORE:g}, divide them"
        )
    return array


def _as_floats(values: ArrayLike, name: str) -> FloatArray:
    """Convert without what numpy would convert in silence: text, complex numbers, masks."""
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidScoresError(
            f"{name}: a masked array; remove the masked items from both sides of the comparison"
        )
    try:
        raw: NDArray[Any] = np.asarray(values)
        if raw.dtype.kind not in "biuf" and raw.size:
            raise InvalidScoresError(
                f"{name}: values of type {raw.dtype}; scores are integers, floats or booleans"
            )
        return raw.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as err:
        raise InvalidScoresError(f"{name}: not an array of numbers ({err})") from err


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


def validate_finite(value: float, name: str) -> float:
    """Return ``value`` if it is a finite number.

    Raises:
        InvalidScoresError: The value is NaN or infinite.
    """
    if not math.isfinite(value):
        raise InvalidScoresError(f"{name} is {value}; it must be a finite number")
    return value


def validate_choice(value: str, choices: Any, name: str) -> str:
    """Return ``value`` if it is one of the strings of a ``Literal`` type, in its exact spelling.

    Args:
        value: The value.
        choices: The ``Literal`` type.
        name: Field name for error messages.

    Raises:
        InvalidScoresError: The value is another one.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidScoresError(f"{name}: {value!r} is unknown; known: {', '.join(allowed)}")
    return value


def differences(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return ``left - right`` where two values that differ by rounding alone are equal.

    Without this, 0.1 + 0.2 "beats" 0.3 on every item, and a test of signs finds certainty in noise
    of the last bit.

    Args:
        left: Values, [...].
        right: Values in the same shape.
    """
    gaps = left - right
    return np.where(np.abs(gaps) <= _ROUNDING * np.maximum(np.abs(left), np.abs(right)), 0.0, gaps)


def binary_scale(values: FloatArray) -> float:
    """Return the power of two next to the largest absolute value, 1 if all are 0 or one is NaN.

    Dividing by it brings values to the order of 1 without rounding, so that float32 sums and third
    powers neither overflow nor vanish, whatever the unit of the scores.

    Args:
        values: Values, [...].
    """
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if math.isfinite(largest) and largest else 1.0
