"""Hint distillation: the model that read a correction teaches the model that did not.

The teacher is the same model with the correction as a hint in its prompt (self-distillation from
feedback; OpenClaw-RL, arXiv 2603.10165). Only its most probable tokens are kept. The others are
one outcome, so that the loss is a divergence of two distributions, 0 exactly where they agree.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOP_TOKENS = 64
"""Tokens of the teacher's distribution that are kept one by one."""


@dataclass(frozen=True, eq=False)
class TeacherTargets:
    """Teacher's distribution at each token of a reply.

    Attributes:
        ids: ``[T, k]`` token ids, most probable first.
        log_probabilities: ``[T, k]`` log-probabilities, at least float32.
    """

    ids: Tensor
    log_probabilities: Tensor


def teacher_targets(logits: Tensor, top: int = TOP_TOKENS) -> TeacherTargets:
    """Return the targets of the teacher's logits ``[T, V]``; at most V tokens are kept."""
    log_probabilities = torch.log_softmax(logits.detach(), -1, dtype=_wide(logits))
    values, ids = log_probabilities.topk(min(top, logits.shape[-1]), dim=-1)
    return TeacherTargets(ids, values)


def hint_divergence(logits: Tensor, targets: TeacherTargets) -> Tensor:
    """Return ``KL(teacher || student)`` at each token, ``[T]`` nats, differentiable in the logits.

    It is a lower bound of the divergence over the whole vocabulary, by the data processing
    inequality, and equal to it if all tokens are kept.

    Args:
        logits: ``[T, V]`` logits of the student, without the hint.
        targets: Teacher's distribution at the same tokens.
    """
    student = torch.log_softmax(logits, -1, dtype=_wide(logits))
    teacher = targets.log_probabilities
    kept = (teacher.exp() * (teacher - student.gather(-1, targets.ids))).sum(-1)
    if targets.ids.shape[-1] == logits.shape[-1]:
        return kept
    # The rest is a sum over the others: 1 - sum of the kept ones cancels near 1.
    others = student.scatter(-1, targets.ids, float("-inf")).logsumexp(-1)
    rest = (1 - teacher.exp().sum(-1)).clamp(min=0)
    return kept + torch.special.entr(rest).neg() - rest * others


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
