"""Families of claims are corrected together."""

import math

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.fdr import benjamini_hochberg


def test_published_example() -> None:
    """The 15 p-values of Benjamini and Hochberg (1995), section 3: the first four fall at 5 %."""
    values = "0.0001 0.0004 0.0019 0.0095 0.0201 0.0278 0.0298 0.0344 0.0459 0.3240 0.4262 0.5719"
    given = [*map(float, values.split()), 0.6528, 0.7590, 1.0]

    found = benjamini_hochberg({f"claim {k}": p for k, p in enumerate(given)})

    assert [claim.rejected for claim in found.values()] == [True] * 4 + [False] * 11
    assert found["claim 3"].p_adjusted == pytest.approx(0.0095 * 15 / 4)


def test_dependence_costs() -> None:
    """Benjamini-Yekutieli never rejects what Benjamini-Hochberg keeps."""
    family = {"a": 0.01, "b": 0.02, "c": 0.5}

    plain, dependent = benjamini_hochberg(family), benjamini_hochberg(family, dependent=True)

    assert all(dependent[key].p_adjusted >= plain[key].p_adjusted for key in family)


def test_family_without_claims_is_empty() -> None:
    """Nothing claimed, nothing corrected."""
    assert benjamini_hochberg({}) == {}


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    """The claim is named."""
    with pytest.raises(InvalidScoresError, match="claim 'b' has p = "):
        benjamini_hochberg({"a": 0.5, "b": p})
