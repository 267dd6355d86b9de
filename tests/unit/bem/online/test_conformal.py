"""Tests of the conformal thresholds."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.online.conformal import coverage_distance, leave_one_out_distances, locality_threshold


@pytest.mark.parametrize(("count", "rank"), [(99, 1), (199, 2), (1999, 20), (98, 0)])
def test_locality_is_the_ranked_distance(count: int, rank: int) -> None:
    """With error 0.01 the threshold is the floor(0.01 (n + 1))-th distance, 0 below one."""
    distances = torch.arange(1.0, count + 1).flip(0)

    assert locality_threshold(distances, 0.01) == rank


@pytest.mark.parametrize(("count", "rank"), [(19, 19), (39, 38), (8, 8), (1, 1)])
def test_coverage_is_the_ranked_distance(count: int, rank: int) -> None:
    """With a miss of 0.05 it is the ceil(0.95 (n + 1))-th distance, or the largest one."""
    assert coverage_distance(torch.arange(1.0, count + 1), 0.05) == rank


def test_false_activations_stay_within_the_error() -> None:
    """Over many calibrations, a new distance is below the threshold as often as allowed."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 100, generator=generator).exp()
    hits = [float(one[99]) < locality_threshold(one[:99], 0.05) for one in draws]

    # The exact chance is 0.05; three standard errors of 4,000 draws are 0.0103.
    assert abs(sum(hits) / len(hits) - 0.05) < 0.0103


def test_left_out_distances_are_those_without_the_key() -> None:
    """Each distance is the one from the mean of the other keys."""
    keys = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = [
        torch.linalg.vector_norm(key - torch.cat([keys[:at], keys[at + 1 :]]).mean(0))
        for at, key in enumerate(keys)
    ]

    torch.testing.assert_close(leave_one_out_distances(keys), torch.stack(expected))
    assert leave_one_out_distances(keys[:1]).tolist() == [0]


def test_shares_and_empty_sets_are_refused() -> None:
    """Shares lie in (0, 1), and a condition has a prompt."""
    with pytest.raises(InvalidSettingError, match=r"error: 1.0 is not a share"):
        locality_threshold(torch.ones(3), 1.0)
    with pytest.raises(InvalidSettingError, match="at least 1 prompt"):
        coverage_distance(torch.ones(0), 0.1)
