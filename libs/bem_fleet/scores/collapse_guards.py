"""Collapse guards of representations: spread, rank, and clean accuracy beside them.

A robustness score rises when a model maps all texts to one point. These figures are printed beside
every RRS, and a system whose figures fell is not robust but collapsed.
"""

from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError

from bem_fleet.scores.representation_similarity import Matrix


@dataclass(frozen=True)
class CollapseGuards:
    """Figures that fall when representations collapse.

    Attributes:
        deviation: Mean standard deviation of a feature over the items, relative to the root mean
            square of all values, in [0, 1].
        dead_features: Share of the features whose relative deviation is below 1 %.
        effective_rank: Exponential of the entropy of the covariance's eigenvalues, from 1 to F (Roy
            and Vetterli, EUSIPCO 2007).
        clean_accuracy: Score on clean items, in [0, 1].
    """

    deviation: float
    dead_features: float
    effective_rank: float
    clean_accuracy: float

    def findings(
        self, before: "CollapseGuards", *, share: float = 0.5, loss: float = 0.02
    ) -> list[str]:
        """Return what fell too far against a system before training; empty without collapse.

        Args:
            before: Guards of the untrained system on the same items.
            share: Smallest ratio of deviation and of effective rank to those before.
            loss: Largest loss of clean accuracy.
        """
        findings = []
        for name in ("deviation", "effective_rank"):
            new, old = getattr(self, name), getattr(before, name)
            if new < share * old:
                findings.append(f"{name}: {new:.3g}, below {share:g} of {old:.3g}")
        if self.clean_accuracy < before.clean_accuracy - loss:
            findings.append(
                f"clean_accuracy: {self.clean_accuracy:.3f}, more than {loss:g} below "
                f"{before.clean_accuracy:.3f}"
            )
        return findings


def collapse_guards(representations: Matrix, clean_accuracy: float) -> CollapseGuards:
    """Return the guards of pooled representations.

    Args:
        representations: ``[N, F]`` of clean items, N at least 2.
        clean_accuracy: Score on clean items, in [0, 1].

    Raises:
        InvalidScoresError: There are too few rows, a value is not finite, or the accuracy is
            outside [0, 1].
    """
    values = np.asarray(representations, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not values.size or not np.isfinite(values).all():
        raise InvalidScoresError(
            f"representations: shape {values.shape}; wanted finite values [N, F], N at least 2"
        )
    if not 0 <= clean_accuracy <= 1:
        raise InvalidScoresError(f"clean_accuracy: {clean_accuracy}; it lies in [0, 1]")
    size = float(np.sqrt(np.mean(values**2)))
    deviations = values.std(axis=0) / (size or 1.0)
    # Squared singular values of the centred rows are the covariance's eigenvalues times N.
    spectrum = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2
    total = spectrum.sum()
    shares = spectrum[spectrum > 0] / total if total > 0 else np.ones(1)
    return CollapseGuards(
        deviation=float(deviations.mean()),
        dead_features=float(np.mean(deviations < 0.01)),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        clean_accuracy=clean_accuracy,
    )
