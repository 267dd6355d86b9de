"""Collapse guards on constructed representations."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.collapse_guards import collapse_guards

RNG = np.random.default_rng(0)
SPREAD = RNG.normal(size=(500, 8))


def test_full_rank_and_one_direction() -> None:
    """Independent features have rank 8 and deviation 1; a line has rank 1."""
    full = collapse_guards(SPREAD, 0.5)
    line = collapse_guards(SPREAD[:, :1] * np.ones(8), 0.5)

    assert full.effective_rank == pytest.approx(8, abs=0.1)
    assert full.deviation == pytest.approx(1, abs=0.01)
    assert full.dead_features == 0
    assert line.effective_rank == pytest.approx(1)


def test_effective_rank_is_the_entropy_of_the_spectrum() -> None:
    """Eigenvalues in the ratio 3 : 1 have exp(H(3/4)) directions."""
    points = np.array([[3**0.5, 0], [-(3**0.5), 0], [0, 1], [0, -1]])
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))

    assert collapse_guards(points, 1.0).effective_rank == pytest.approx(expected)


def test_collapse_is_found_with_its_figures() -> None:
    """One point with noise has no deviation; a line has no rank; lost accuracy counts."""
    before = collapse_guards(SPREAD, 0.8)
    point = collapse_guards(5 + 1e-4 * SPREAD, 0.8)
    line = collapse_guards(SPREAD[:, :1] * np.ones(8), 0.7)

    assert before.findings(before) == []
    assert [one.partition(":")[0] for one in point.findings(before)] == ["deviation"]
    assert point.dead_features == 1
    assert [one.partition(":")[0] for one in line.findings(before)] == [
        "effective_rank",
        "clean_accuracy",
    ]
    assert collapse_guards(np.ones((3, 2)), 0.0).effective_rank == 1
    assert collapse_guards(np.zeros((3, 2)), 0.0).deviation == 0


def test_bad_values_are_named() -> None:
    """Single rows and accuracies beyond 1 are refused."""
    with pytest.raises(InvalidScoresError, match="N at least 2"):
        collapse_guards(SPREAD[:1], 0.5)
    with pytest.raises(InvalidScoresError, match="clean_accuracy: 50"):
        collapse_guards(SPREAD, 50)
