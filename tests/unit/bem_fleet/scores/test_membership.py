"""AUC of membership inference on constructed losses."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.membership import membership_auc


def test_auc_counts_pairs_and_halves_ties() -> None:
    """Lower losses of members count; by hand over all pairs."""
    members, others = [0.1, 0.5, 0.5], [0.5, 0.2, 0.9]
    pairs = [(m < o) + 0.5 * (m == o) for m in members for o in others]

    assert membership_auc(members, others) == pytest.approx(np.mean(pairs))
    assert membership_auc([0, 1], [2, 3]) == 1
    assert membership_auc([2, 3], [0, 1]) == 0
    assert membership_auc([1, 1], [1, 1, 1]) == 0.5


def test_reference_removes_the_difficulty() -> None:
    """Hard members hide behind easy others until a reference tells how hard each is."""
    rng = np.random.default_rng(0)
    hard, easy = (5 + rng.normal(size=200)).tolist(), rng.normal(size=200).tolist()
    members = [loss - 0.5 for loss in hard]

    assert membership_auc(members, easy) < 0.05
    assert membership_auc(members, easy, member_reference=hard, other_reference=easy) == 1


def test_bad_losses_are_named() -> None:
    """Empty sets, NaN, and one reference without the other are refused."""
    with pytest.raises(InvalidScoresError, match="other_losses"):
        membership_auc([1.0], [])
    with pytest.raises(InvalidScoresError, match="member_losses: a loss is NaN"):
        membership_auc([float("nan")], [1.0])
    with pytest.raises(InvalidScoresError, match="give both or none"):
        membership_auc([1.0], [1.0], member_reference=[1.0])
