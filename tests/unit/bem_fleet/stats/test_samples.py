"""Validation of scores."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.samples import validate_fraction, validate_pairs, validate_scores


def test_valid_scores_become_float_arrays() -> None:
    """Booleans and nested lists are taken as float64 of the wanted axes."""
    assert validate_scores([True, False], "x").tolist() == [1.0, 0.0]
    assert validate_scores([[1, 2], [3, 4]], "x", ndim=2).dtype == np.float64


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (["a"], "x: not an array of numbers"),
        ([[1.0]], r"x: shape \(1, 1\); wanted \[items\]"),
        ([], "x: no scores"),
        ([1.0, np.inf], "x: 1 of 2 scores are NaN or infinite"),
    ],
)
def test_bad_scores_are_named(values: list[object], named: str) -> None:
    """The error names the field and what is wrong with it."""
    with pytest.raises(InvalidScoresError, match=named):
        validate_scores(values, "x")  # type: ignore[arg-type]


def test_pairs_and_levels_have_limits() -> None:
    """Sides of different lengths, and levels of 0 and 1, are refused."""
    with pytest.raises(InvalidScoresError, match=r"mission has shape \(1,\), baseline \(2,\)"):
        validate_pairs([1.0], [1.0, 2.0])
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(InvalidScoresError, match="alpha is"):
            validate_fraction(level, "alpha")
    assert validate_fraction(0.5, "alpha") == 0.5
