"""Elastic weight consolidation of a code, with the full Fisher matrix.

The penalty ``strength / 2 (c - c*)^T L (c - c*)`` keeps a code near the one that earlier feedback
taught, in the directions that earlier feedback depends on. L begins as the precision of a prior
and grows by the Fisher matrix of each batch: with quadratic losses, strength 1 and no forgetting
this is recursive least squares, and learning batch by batch equals learning all at once. With the
diagonal alone it is EWC (arXiv 1612.00796) in its online form (arXiv 1805.06370).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bem.errors import InvalidSettingError

PenaltyKind = Literal["full", "diagonal", "proximal", "none"]
PENALTIES: tuple[PenaltyKind, ...] = ("full", "diagonal", "proximal", "none")
"""Full Fisher matrix; ablations: its diagonal, the prior's precision alone, and no penalty."""


@dataclass(frozen=True)
class PenaltySettings:
    """Settings of the penalty.

    Attributes:
        kind: What the precision grows by, one of ``PENALTIES``.
        strength: Factor of the penalty; 1 is the Bayesian update.
        prior: Precision of the first code, equal for all numbers, above 0.
        retention: Factor of the older precision at each update, in (0, 1].

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    kind: PenaltyKind = "full"
    strength: float = 1.0
    prior: float = 1.0
    retention: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in PENALTIES:
            raise InvalidSettingError(
                f"penalty kind: {self.kind!r} is unknown; use {', '.join(PENALTIES)}"
            )
        if self.strength < 0 or not self.prior > 0 or not 0 < self.retention <= 1:
            raise InvalidSettingError(
                "penalty: strength is at least 0, prior above 0 and retention in (0, 1]; got "
                f"{self.strength}, {self.prior}, {self.retention}"
            )


@dataclass(frozen=True, eq=False)
class Consolidation:
    """Penalty around one code; ``absorb`` returns the next one.

    Attributes:
        settings: Settings of the penalty.
        center: ``[P]`` float64 code that the penalty holds on to.
        precision: ``[P, P]`` float64 for the full Fisher matrix, ``[P]`` for the others.
    """

    settings: PenaltySettings
    center: Tensor
    precision: Tensor

    @classmethod
    def around(cls, center: Tensor, settings: PenaltySettings) -> "Consolidation":
        """Return the penalty before any feedback: the prior around a first code ``[P]``."""
        center = center.detach().double().clone()
        diagonal = torch.full_like(center, settings.prior)
        full = settings.kind == "full"
        return cls(settings, center, torch.diag(diagonal) if full else diagonal)

    def value(self, code: Tensor) -> float:
        """Return the penalty of a code ``[P]``, nats."""
        away = code.double() - self.center
        return float(away.dot(self.gradient(code))) / 2

    def gradient(self, code: Tensor) -> Tensor:
        """Return the gradient of the penalty at a code, ``[P]``."""
        away = code.double() - self.center
        product = self.precision @ away if self.precision.dim() == 2 else self.precision * away
        return self._strength * product

    def curvature(self) -> Tensor:
        """Return the Hessian of the penalty, ``[P, P]``."""
        precision = self.precision if self.precision.dim() == 2 else torch.diag(self.precision)
        return self._strength * precision

    def absorb(self, code: Tensor, fisher: Tensor) -> "Consolidation":
        """Return the penalty after a batch was learned.

        Args:
            code: ``[P]`` code after the batch, the new center.
            fisher: ``[P, P]`` Fisher matrix of the batch's losses at this code, summed.
        """
        kept, kind = self.settings.retention * self.precision, self.settings.kind
        if kind == "full":
            # Rounding must not make the precision unsymmetric over thousands of updates.
            kept = kept + (fisher + fisher.T).double() / 2
        elif kind == "diagonal":
            kept = kept + fisher.diagonal().double()
        else:
            kept = self.precision
        return Consolidation(self.settings, code.detach().double().clone(), kept)

    @property
    def _strength(self) -> float:
        return 0.0 if self.settings.kind == "none" else self.settings.strength
