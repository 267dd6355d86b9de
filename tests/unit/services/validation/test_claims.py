"""Claims: digests of their content, and their p-value in the family."""

from dataclasses import replace

import numpy as np
import pytest
from bem_fleet.acceptance.catalogue import GateRule
from bem_fleet.acceptance.gate_evaluation import Measurement
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation.claims import (
    Claim,
    Comparison,
    Lineage,
    RecordedClaim,
    content_digest,
    figure_problem,
    gate_terms,
)

LINEAGE = Lineage("m", "b", "d", "make")
MEASURED = Measurement("f1", 0.1, 0.0, 0.2, 0.04, 10, 1, "BCa", "nominal", 0.04, 0.03)


def comparison(value: float = 0.5, baseline: float | None = 0.25) -> Comparison:
    """Return a comparison of constant scores."""
    left = np.full((1, 4), value)
    right = None if baseline is None else np.full((1, 4), baseline)
    return Comparison("key", LINEAGE, {"f1": PairedScores(left, right)}, "difference", 0.0)


def test_a_digest_is_of_the_content_and_not_of_who_asked() -> None:
    """Scores, statistic, null value and digests change it; key, command and family do not."""
    first = comparison()
    others = [
        comparison(0.5 + 1e-15),
        comparison(baseline=None),
        replace(first, null=0.1),
        replace(first, statistic="ratio"),
        replace(first, lineage=replace(LINEAGE, data_digest="other")),
    ]
    digests = {content_digest(one) for one in [first, *others]}
    asked_otherwise = [
        replace(first, claim="another key"),
        replace(first, lineage=replace(LINEAGE, command="make other")),
        replace(first, family="study", member="quality"),
    ]

    assert {content_digest(one) for one in asked_otherwise} == {content_digest(first)}
    assert len(digests) == 6
    assert content_digest(comparison(-0.0)) == content_digest(comparison(0.0))


def clustered(*names: str, unit: str = "family") -> Comparison:
    """Return a comparison whose four items are in clusters."""
    first = comparison()
    scores = {"f1": replace(first.scores["f1"], clusters=names, unit=unit)}
    return replace(first, scores=scores)


def test_a_digest_is_of_the_partition_into_clusters() -> None:
    """Clusters are part of the content; how they are named is not."""
    digests = [
        content_digest(one)
        for one in (
            comparison(),
            clustered("a", "a", "b", "b"),
            clustered("a", "b", "a", "b"),
            clustered("a", "a", "b", "b", unit="book"),
        )
    ]

    assert len({*digests}) == 4
    assert content_digest(clustered("9", "9", "3", "3")) == digests[1]


def test_terms_leave_out_later_conditions_that_ask_nothing() -> None:
    """A family that was declared before units keeps its terms; a unit that is asked for is one."""
    rule = GateRule("own", ("f1",), "difference", "higher", 0.1, 0.0, 2, 1)

    assert list(gate_terms(rule)) == [
        "id",
        "metrics",
        "statistic",
        "direction",
        "target",
        "margin",
        "min_items",
        "min_seeds",
        "at_most",
        "at_least",
    ]
    assert gate_terms(replace(rule, unit="book", min_baseline=0.3)).items() >= {
        ("unit", "book"),
        ("min_baseline", 0.3),
    }


@pytest.mark.parametrize(
    ("inversion", "permutation", "p"), [(0.04, None, 0.04), (None, 0.2, 0.2), (None, None, 0.04)]
)
def test_old_records_take_the_larger_p(
    inversion: float | None, permutation: float | None, p: float
) -> None:
    """Records from before both were measured are no better off than new ones."""
    measured = replace(MEASURED, p_inversion=inversion)
    claim = Claim("key", "digest", LINEAGE, measured, p_permutation=permutation)

    assert claim.p == p


@pytest.mark.parametrize(
    ("measured", "named"),
    [
        (replace(MEASURED, figure=float("inf")), "measured.figure is inf"),
        (replace(MEASURED, figure=1e308), "measured.figure is 1e+308"),
        (replace(MEASURED, low=float("nan")), "measured.low is nan"),
        (replace(MEASURED, p=1.5), "measured.p is 1.5; a p-value lies in"),
        (replace(MEASURED, p_inversion=-0.1), "measured.p_inversion is -0.1"),
        (replace(MEASURED, items=0), "0 items and 1 seeds"),
    ],
)
def test_an_impossible_figure_is_named(measured: Measurement, named: str) -> None:
    """Figures are finite and in range, p-values are probabilities."""
    assert named in figure_problem(Claim("key", "digest", LINEAGE, measured))
    assert not figure_problem(Claim("key", "digest", LINEAGE, MEASURED))


def test_the_time_of_recording_is_in_the_id() -> None:
    """Redis puts its clock into the id of a stream's entry."""
    claim = Claim("key", "digest", LINEAGE, MEASURED)

    assert RecordedClaim("1732430000000-3", claim, 0.05, 1).recorded_unix_ms == 1_732_430_000_000
