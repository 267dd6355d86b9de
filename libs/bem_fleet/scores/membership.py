"""Membership inference: how well losses tell training items from others.

The attack guesses that an item with a low loss was trained on (Yeom et al., CSF 2018). A reference
model that was trained on neither set calibrates for difficulty: easy items have a low loss in any
model (Watson et al., arXiv 2111.08440).
"""

from collections.abc import Sequence

import numpy as np
from bem.errors import InvalidScoresError
from scipy.stats import rankdata


def membership_auc(
    member_losses: Sequence[float],
    other_losses: Sequence[float],
    *,
    member_reference: Sequence[float] | None = None,
    other_reference: Sequence[float] | None = None,
) -> float:
    """Return the AUC of the attack in [0, 1]: 0.5 tells nothing, 1 tells every training item.

    An AUC near 0.5 of two systems may only say that neither was over-fitted: report their losses on
    both sets beside it.

    Args:
        member_losses: Losses of items that were trained on, ``[N]``.
        other_losses: Losses of items of the same kind that were not, ``[M]``.
        member_reference: Losses of a reference model on the members, ``[N]``; None for none.
        other_reference: Losses of the reference model on the others, ``[M]``; None for none.

    Raises:
        InvalidScoresError: A set is empty, has a NaN, or its reference another length, or only one
            reference is there.
    """
    if (member_reference is None) != (other_reference is None):
        raise InvalidScoresError("member_reference, other_reference: give both or none")
    members = _gains("member_losses", member_losses, member_reference)
    others = _gains("other_losses", other_losses, other_reference)
    ranks = rankdata(np.concatenate((members, others)))
    # The Mann-Whitney statistic: pairs in which the member scores higher; ties count half.
    higher = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(higher / (len(members) * len(others)))


def _gains(name: str, losses: Sequence[float], reference: Sequence[float] | None) -> np.ndarray:
    """Return how much lower each loss is than the reference's, or than 0."""
    values = np.asarray(losses, dtype=np.float64)
    base = np.zeros_like(values) if reference is None else np.asarray(reference, dtype=np.float64)
    if values.ndim != 1 or not len(values) or values.shape != base.shape:
        raise InvalidScoresError(
            f"{name}: shape {values.shape}, reference {base.shape}; wanted equal lengths of at "
            "least one"
        )
    gains: np.ndarray = base - values
    if np.isnan(gains).any():
        raise InvalidScoresError(f"{name}: a loss is NaN")
    return gains
