"""Split-conformal thresholds on distances (Vovk et al., Algorithmic Learning in a Random World).

Both functions rank a new distance among n calibration distances. If the new one is exchangeable
with them, each of its n + 1 possible ranks has the same probability, whatever the distribution is.
"""

import math

import torch
from torch import Tensor

from bem.errors import InvalidSettingError


def locality_threshold(distances: Tensor, error: float) -> float:
    """Return the largest t for which an unrelated prompt has ``P(distance < t) <= error``.

    It is the k-th smallest distance with ``k = floor(error (n + 1))``, and 0, which no distance is
    below, if k is 0: too few calibration prompts for the error let nothing through.

    Args:
        distances: ``[n]`` distances of unrelated calibration prompts.
        error: Largest share of false activations, in (0, 1).

    Raises:
        InvalidSettingError: The error is out of its range.
    """
    _check_share("error", error)
    rank = math.floor(error * (len(distances) + 1))
    return float(distances.sort().values[rank - 1]) if rank else 0.0


def coverage_distance(distances: Tensor, miss: float) -> float:
    """Return the distance within which a share ``1 - miss`` of related prompts lies.

    It is the k-th smallest with ``k = ceil((1 - miss) (n + 1))``. Below ``n = 1 / miss - 1``
    examples no distance has that guarantee, and the largest one is returned.

    Args:
        distances: ``[n]`` distances of related prompts, n at least 1.
        miss: Share of related prompts that may lie outside, in (0, 1).

    Raises:
        InvalidSettingError: There is no distance, or the share is out of its range.
    """
    _check_share("miss", miss)
    if not len(distances):
        raise InvalidSettingError("distances: there is none; a condition needs at least 1 prompt")
    # Rounding of (1 - miss) (n + 1) must not raise the rank by one.
    rank = math.ceil((1 - miss) * (len(distances) + 1) - 1e-9)
    return float(distances.sort().values[min(rank, len(distances)) - 1])


def leave_one_out_distances(keys: Tensor) -> Tensor:
    """Return the distance ``[n]`` of each key ``[n, K]`` from the mean of the others.

    The mean without key i lies at ``n / (n - 1)`` of the distance from the mean of all. One key has
    the distance 0.
    """
    count = len(keys)
    spread = torch.linalg.vector_norm(keys - keys.mean(0), dim=-1)
    return spread * (count / (count - 1)) if count > 1 else spread


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise InvalidSettingError(f"{name}: {share} is not a share; use a number in (0, 1)")
