"""Language-dependent complexity (LDC): bits and accuracy lost per unit of surface change.

    LDC = sum_i u_i y_i / sum_i u_i^2

is the slope through the origin of the loss y_i of an item on its surface change u_i, the edit
distance over the length of the longer text, in [0, 1]. With y in bits a token it is the extra bits
a token of a text that is changed altogether; with y the lost score it is in points per unit. 0 is
independence of the surface. LDC falls when the clean text gets worse, so that the clean value is
part of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDependence:
    """LDC of one quantity.

    Attributes:
        slope: Loss per unit of surface change; 0 is independence.
        clean: Mean of the quantity on clean texts, in its own unit.
        items: Contribution of each item, ``[N]``, whose mean is ``slope``; for paired statistics.
    """

    slope: float
    clean: float
    items: tuple[float, ...]


def bits_dependence(
    changes: Sequence[float], clean_bits: Sequence[float], scrambled_bits: Sequence[float]
) -> SurfaceDependence:
    """Return the LDC in extra bits a token.

    Args:
        changes: Surface change of each item in [0, 1], ``[N]``.
        clean_bits: Bits a token on the clean text, ``[N]``.
        scrambled_bits: Bits a token on the scrambled text, ``[N]``.

    Raises:
        InvalidScoresError: Lengths differ, a value is out of its range, or nothing was changed.
    """
    return _dependence(changes, clean_bits, scrambled_bits, sign=1.0)


def accuracy_dependence(
    changes: Sequence[float], clean_scores: Sequence[float], scrambled_scores: Sequence[float]
) -> SurfaceDependence:
    """Return the LDC in lost score, positive where scrambles cost accuracy.

    Args:
        changes: Surface change of each item in [0, 1], ``[N]``.
        clean_scores: Score of each clean item, ``[N]``.
        scrambled_scores: Score of each scrambled item, ``[N]``.

    Raises:
        InvalidScoresError: Lengths differ, a value is out of its range, or nothing was changed.
    """
    return _dependence(changes, clean_scores, scrambled_scores, sign=-1.0)


def surface_change(source: str, scrambled: str) -> float:
    """Return the Levenshtein distance over the length of the longer text, in [0, 1]."""
    longest = max(len(source), len(scrambled))
    return edit_distance(source, scrambled) / longest if longest else 0.0


def edit_distance(left: str, right: str) -> int:
    """Return the number of insertions, removals and substitutions of characters between texts.

    Dynamic programming by rows (Wagner and Fischer 1974), each row vectorised: insertions run along
    the row, which makes them a running minimum of ``cost - column``.
    """
    codes = np.frombuffer(right.encode("utf-32-le", "surrogatepass"), np.uint32)
    columns = np.arange(len(codes) + 1)
    costs = columns.copy()
    for row, letter in enumerate(left, 1):
        kept = costs[:-1] + (codes != ord(letter))
        best = np.concatenate(([row], np.minimum(kept, costs[1:] + 1)))
        costs = np.minimum.accumulate(best - columns) + columns
    return int(costs[-1])


def _dependence(
    changes: Sequence[float], clean: Sequence[float], scrambled: Sequence[float], *, sign: float
) -> SurfaceDependence:
    change, before, after = (
        np.asarray(values, dtype=np.float64) for values in (changes, clean, scrambled)
    )
    if change.ndim != 1 or not len(change) or not change.shape == before.shape == after.shape:
        raise InvalidScoresError(
            f"changes {change.shape}, clean {before.shape} and scrambled {after.shape}: wanted "
            "equal lengths of one or more"
        )
    if not all(np.isfinite(values).all() for values in (before, after)):
        raise InvalidScoresError("clean, scrambled: values are NaN or infinite")
    if not np.all((change >= 0) & (change <= 1)):
        raise InvalidScoresError("changes: values outside [0, 1] or NaN")
    if not change.any():
        raise InvalidScoresError("changes: no item was changed; scramble at a higher rate")
    items: Floats = change * sign * (after - before) / np.mean(change**2)
    return SurfaceDependence(float(items.mean()), float(before.mean()), tuple(items.tolist()))
