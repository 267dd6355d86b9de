"""Divergences between the predictions of a scrambled view and those of the clean teacher.

The teacher is detached by its caller or cached: ``truncate_teacher`` keeps the most likely ids of
each position and the mass of all others, so that the clean forward pass is paid once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidSettingError

CIPHER_START, CIPHER_FULL = 64, 256
"""Positions from which a ciphered view is asked for some and for all of the clean prediction."""


@dataclass(frozen=True, eq=False)
class TruncatedTeacher:
    """Most likely ids of a teacher with the mass of all others.

    Attributes:
        ids: ``[..., K]`` int64.
        log_probabilities: ``[..., K + 1]``, the last one that of all other ids together.
    """

    ids: Tensor
    log_probabilities: Tensor


def position_weights(length: int, start: int = CIPHER_START, full: int = CIPHER_FULL) -> Tensor:
    """Return weights ``[length]``: 0 before ``start``, then linear, 1 from ``full`` on.

    Early in a ciphered text the mapping cannot be known, so that a divergence from the clean
    teacher asks for the impossible.

    Raises:
        InvalidSettingError: ``0 <= start < full`` does not hold.
    """
    if not 0 <= start < full:
        raise InvalidSettingError(f"start, full: {start} and {full}; 0 <= start < full is needed")
    return ((torch.arange(length) - start) / (full - start)).clamp(0.0, 1.0)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of ``values [B, T]`` by ``weights``, broadcast; 0 where all weights are 0."""
    if weights is None:
        return values.mean()
    weights = weights.to(values).expand_as(values)
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def prediction_kl(
    student: Tensor, teacher: Tensor, weights: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Return the mean ``KL(teacher || student)`` over positions, in nats, times ``temperature^2``.

    The factor keeps the size of the gradient (Hinton et al., arXiv 1503.02531).

    Args:
        student: Logits of the scrambled view ``[B, T, V]``.
        teacher: Logits of the clean view over the student's alphabet and places ``[B, T, V]``.
        weights: Weights of the positions, ``[T]`` or ``[B, T]``; None for equal ones.
        temperature: Divisor of both logits, above 0.
    """
    log_p = torch.log_softmax(teacher.float() / temperature, -1)
    log_q = torch.log_softmax(student.float() / temperature, -1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return weighted_mean(divergence, weights) * temperature**2


def truncate_teacher(logits: Tensor, keep: int) -> TruncatedTeacher:
    """Return the ``keep`` most likely ids of each position, ``[..., V]`` logits.

    Raises:
        InvalidSettingError: ``keep`` is not in [1, V - 1], so that no id or no rest is left.
    """
    if not 1 <= keep < logits.shape[-1]:
        raise InvalidSettingError(f"keep: {keep}; it lies in [1, {logits.shape[-1] - 1}]")
    log_p = torch.log_softmax(logits.float(), -1)
    top, ids = log_p.topk(keep, -1)
    return TruncatedTeacher(ids, torch.cat((top, _log_rest(top)), -1))


def truncated_kl(
    student: Tensor, teacher: TruncatedTeacher, weights: Tensor | None = None
) -> Tensor:
    """Return the mean KL over the kept ids and the rest as one more, in nats.

    It is at most ``prediction_kl``, by the data processing inequality, and equal to it if the rest
    is one id.

    Args:
        student: Logits of the scrambled view ``[B, T, V]``.
        teacher: Truncated predictions ``[B, T, K]`` of the clean view.
        weights: Weights of the positions, ``[T]`` or ``[B, T]``; None for equal ones.
    """
    log_q = torch.log_softmax(student.float(), -1).gather(-1, teacher.ids)
    log_q = torch.cat((log_q, _log_rest(log_q)), -1)
    log_p = teacher.log_probabilities
    return weighted_mean((log_p.exp() * (log_p - log_q)).sum(-1), weights)


def _log_rest(log_probabilities: Tensor) -> Tensor:
    """Return the log of what is left of the mass, ``[..., K]`` to ``[..., 1]``."""
    mass = log_probabilities.exp().sum(-1, keepdim=True)
    return (1 - mass).clamp(min=1e-9).log()
