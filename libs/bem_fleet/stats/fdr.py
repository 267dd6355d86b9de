"""False discovery rate over a family of claims, by statsmodels."""

from collections.abc import Mapping
from dataclasses import dataclass

from bem.errors import InvalidScoresError
from statsmodels.stats.multitest import multipletests

from bem_fleet.stats.samples import fraction


@dataclass(frozen=True)
class Corrected:
    """One claim after correction.

    Attributes:
        p: As it came.
        p_adjusted: Smallest rate at which the claim would be rejected, 0 to 1.
        rejected: Whether its null hypothesis falls at the rate asked for.
    """

    p: float
    p_adjusted: float
    rejected: bool


def benjamini_hochberg(
    p_values: Mapping[str, float], alpha: float = 0.05, *, dependent: bool = False
) -> dict[str, Corrected]:
    """Correct a family of p-values (Benjamini and Hochberg, JRSS B 57, 1995).

    Args:
        p_values: By claim, each 0 to 1; an empty family gives an empty result.
        alpha: False discovery rate, between 0 and 1.
        dependent: Use Benjamini and Yekutieli (2001), valid under any dependence; the default
            holds for independent or positively dependent claims.

    Raises:
        InvalidScoresError: A p-value is NaN or outside [0, 1], or ``alpha`` is.
    """
    fraction(alpha, "alpha")
    for claim, p in p_values.items():
        if not 0 <= p <= 1:
            raise InvalidScoresError(f"claim {claim!r} has p = {p}; it must lie in [0, 1]")
    if not p_values:
        return {}
    method = "fdr_by" if dependent else "fdr_bh"
    rejected, adjusted, *_ = multipletests(list(p_values.values()), alpha=alpha, method=method)
    return {
        claim: Corrected(p=float(p), p_adjusted=float(new), rejected=bool(falls))
        for (claim, p), new, falls in zip(p_values.items(), adjusted, rejected, strict=True)
    }
