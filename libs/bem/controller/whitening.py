"""PCA whitening of pooled hidden states: leading components, each with unit variance."""

import torch
from torch import Tensor

from bem.errors import InvalidSettingError

_RELATIVE_FLOOR = 1e-6
"""Smallest singular value that counts, as a share of the largest one."""


def whitening_axes(states: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Return mean ``[D]`` and axes ``[D, K]``: ``(x - mean) @ axes`` has unit covariance.

    Args:
        states: ``[N, D]`` pooled states, N at least 2.
        components: Number of components K; at most the rank of the centred states is used.

    Raises:
        InvalidSettingError: There are fewer than two states.
    """
    if states.dim() != 2 or len(states) < 2:
        raise InvalidSettingError(
            f"projection: states {tuple(states.shape)}; [N, D] with N of at least 2 is needed"
        )
    states = states.float()
    mean = states.mean(0)
    _, singular, vectors = torch.linalg.svd(states - mean, full_matrices=False)
    used = min(components, int((singular > _RELATIVE_FLOOR * singular[0]).sum()))
    deviations = singular[:used] / (len(states) - 1) ** 0.5
    return mean, vectors[:used].T / deviations
