"""False discovery rate control over a family of claims (Benjamini-Hochberg, by statsmodels)."""

from collections.abc import Mapping
from dataclasses import dataclass

from bem.errors import InvalidScoresError
from statsmodels.stats.multitest import multipletests

from bem_fleet.stats.samples import validate_fraction


@dataclass(frozen=True)
class CorrectedPValue:
    """One p-value of a family after correction.

    Attributes:
        p: Unadjusted p-value.
        p_adjusted: Smallest false discovery rate at which the null hypothesis is rejected, 0 to 1.
        rejected: Whether the null hypothesis is rejected at the requested rate.
    """

    p: float
    p_adjusted: float
    rejected: bool


def benjamini_hochberg(
    p_values: Mapping[str, float], alpha: float = 0.05, *, dependent: bool = False
) -> dict[str, CorrectedPValue]:
    """Correct a family of p-values (Benjamini and Hochberg, JRSS B 57, 1995).

    With the m p-values in rising order, the adjusted value of rank k is the minimum over all ranks
    j >= k of m p_j / j, capped at 1.

    Args:
        p_values: P-value of each claim by name, 0 to 1; an empty family gives an empty result.
        alpha: False discovery rate, between 0 and 1.
        dependent: Use the procedure of Benjamini and Yekutieli (Annals of Statistics 29, 2001),
            valid under any dependence; the default holds for independent or positively dependent
            claims.

    Raises:
        InvalidScoresError: A p-value is NaN or outside [0, 1], or ``alpha`` is.
    """
    validate_fraction(alpha, "alpha")
    for claim, p in p_values.items():
        if not 0 <= p <= 1:
            raise InvalidScoresError(f"claim {claim!r} has p = {p}; it must lie in [0, 1]")
    if not p_values:
        return {}
    method = "fdr_by" if dependent else "fdr_bh"
    rejected, adjusted, *_ = multipletests(list(p_values.values()), alpha=alpha, method=method)
    return {
        claim: CorrectedPValue(p=float(p), p_adjusted=float(new), rejected=bool(falls))
        for (claim, p), new, falls in zip(p_values.items(), adjusted, rejected, strict=True)
    }
