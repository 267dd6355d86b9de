"""Invariance losses on hidden states and pooled codes: matching, VICReg, and a cipher adversary.

Matching asks a scrambled view for the teacher's states at aligned tokens; code invariance for
equal pooled codes. Variance and covariance terms (VICReg, arXiv 2105.04906) keep the codes from
collapsing to a point or to few directions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as f

from bem.sep.divergences import weighted_mean

_EPSILON = 1e-4


def layer_matching(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return cosine distance plus half the smooth L1 distance of aligned states, at least 0.

    Args:
        student: States of the scrambled view ``[B, T, F]``.
        teacher: States of the clean view at the same tokens ``[B, T, F]``.
        weights: Weights of the tokens, ``[T]`` or ``[B, T]``, 0 where nothing is aligned.
    """
    cosine = 1 - f.cosine_similarity(student, teacher, dim=-1)
    distance = f.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    return weighted_mean(cosine + 0.5 * distance, weights)


def code_invariance(codes: Tensor, scrambled: Tensor) -> Tensor:
    """Return the mean squared difference of pooled codes, both ``[B, F]``."""
    return (codes - scrambled).square().mean()


def variance_loss(codes: Tensor, floor: float = 1.0) -> Tensor:
    """Return the mean shortfall of each feature's standard deviation from ``floor``.

    Args:
        codes: ``[B, F]``, B at least 2.
        floor: Standard deviation that is wanted of every feature, above 0.
    """
    deviations = (codes.var(0) + _EPSILON).sqrt()
    return torch.relu(floor - deviations).mean()


def covariance_loss(codes: Tensor) -> Tensor:
    """Return the sum of the squared covariances of different features over F, of ``[B, F]``."""
    centred = codes - codes.mean(0)
    covariance = centred.T @ centred / (len(codes) - 1)
    squares = covariance.square().sum() - covariance.diagonal().square().sum()
    return squares / codes.shape[1]


class _Reversal(Function):
    """Identity whose gradient is multiplied by ``-strength`` (arXiv 1409.7495)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        """Return the values."""
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the reversed gradient."""
        return -ctx.strength * gradient, None


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """Return the values; their gradient is multiplied by ``-strength``, which is at least 0."""
    reversed_values: Tensor = _Reversal.apply(values, strength)
    return reversed_values


class CipherAdversary(nn.Module):
    """Head that reads a cipher's key from a pooled code, to be defeated.

    It predicts the image of each of a few probe symbols. Its own parameters minimise the loss, and
    through the reversed gradient the model maximises it: a code from which the key cannot be read
    depends on no key. At chance the loss is ``log V``.

    Args:
        width: Width F of a code.
        alphabet: Number of symbols V.
        probes: Symbols whose images are predicted, ``[N]`` int64.
        strength: Factor of the reversed gradient.
    """

    probes: Tensor

    def __init__(self, width: int, alphabet: int, probes: Tensor, strength: float = 0.1) -> None:
        super().__init__()
        self.alphabet, self.strength = alphabet, strength
        self.head = nn.Linear(width, len(probes) * alphabet)
        self.register_buffer("probes", probes, persistent=False)

    def forward(self, codes: Tensor, symbols: Tensor) -> Tensor:
        """Return the mean cross entropy in nats, of codes ``[B, F]`` and keys ``[B, V]``."""
        logits = self.head(reverse_gradient(codes, self.strength))
        logits = logits.view(len(codes), len(self.probes), self.alphabet)
        return f.cross_entropy(logits.flatten(0, 1), symbols[:, self.probes].flatten())
