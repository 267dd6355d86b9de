"""Parsing of comparison, gate and correction requests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from bem_fleet.acceptance.catalogue import CENTRAL_GATES, load_catalogue
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation import request_parsing
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError

CATALOGUE = load_catalogue(CENTRAL_GATES)
LINEAGE = pb.Lineage(mission_digest="m", baseline_digest="b", data_digest="d", command="c")
SPEC: dict[str, Any] = {
    "id": "own.gate",
    "metrics": ["f1"],
    "statistic": pb.STATISTIC_DIFFERENCE,
    "direction": pb.DIRECTION_HIGHER,
    "target": 0.1,
    "min_items": 2,
    "min_seeds": 1,
}


def paired(*metrics: str, baseline: bool = True) -> Mapping[str, PairedScores]:
    """Return scores of metrics."""
    side = np.full((1, 3), 0.5)
    return {name: PairedScores(side, side if baseline else None) for name in metrics}


def test_null_values_default_to_no_change() -> None:
    """Zero for a difference, one for a ratio, and whatever is given."""
    heads = [
        pb.CompareHead(claim="c", lineage=LINEAGE),
        pb.CompareHead(claim="c", lineage=LINEAGE, statistic=pb.STATISTIC_RATIO),
        pb.CompareHead(claim="c", lineage=LINEAGE, null_value=0.5),
    ]
    parsed = [request_parsing.parse_comparison(head, paired("f1"), CATALOGUE) for head in heads]

    assert [(one.statistic, one.null) for one in parsed] == [
        ("difference", 0.0),
        ("ratio", 1.0),
        ("difference", 0.5),
    ]


@pytest.mark.parametrize(
    ("head", "baseline", "field"),
    [
        (pb.CompareHead(lineage=LINEAGE), True, "claim"),
        (pb.CompareHead(claim="c" * 257, lineage=LINEAGE), True, "claim"),
        (pb.CompareHead(claim="c"), True, "lineage.mission_digest"),
        (pb.CompareHead(claim="c", lineage=LINEAGE), False, "baseline"),
        (
            pb.CompareHead(claim="c", lineage=LINEAGE, statistic=pb.STATISTIC_SHARE),
            True,
            "statistic",
        ),
        (
            pb.CompareHead(claim="c", lineage=LINEAGE, null_value=float("inf")),
            True,
            "null_value",
        ),
    ],
)
def test_a_wrong_comparison_is_named(head: pb.CompareHead, baseline: bool, field: str) -> None:
    """Every limit has its field."""
    with pytest.raises(InvalidArgumentError) as caught:
        request_parsing.parse_comparison(head, paired("f1", baseline=baseline), CATALOGUE)

    assert caught.value.field == field


def test_a_gate_is_named_or_described() -> None:
    """A named one is the catalogue's; a described one has the caller's numbers."""
    named = request_parsing.resolve_gate(pb.GateHead(gate_id="A.em_f1"), CATALOGUE)
    described = request_parsing.resolve_gate(pb.GateHead(spec=pb.GateSpec(**SPEC)), CATALOGUE)

    assert named is CATALOGUE.gates["A.em_f1"].rule
    assert (described.id, described.target, described.direction) == ("own.gate", 0.1, "higher")
    assert described.unit == "item"


def test_a_described_gate_has_its_own_unit() -> None:
    """A caller's gate may ask for clusters, and its declaration says so."""
    spec = pb.GateSpec(**SPEC, unit="user")
    described = request_parsing.resolve_gate(pb.GateHead(spec=spec), CATALOGUE)
    members = [pb.FamilyMember(gate=spec)]
    _, declared = request_parsing.parse_family(
        pb.DeclareFamilyRequest(family="own", members=members), CATALOGUE
    )

    assert described.unit == "user"
    assert declared["own.gate"]["unit"] == "user"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"id": ""}, "spec.id"),
        ({"id": "A.em_f1"}, "spec.id"),
        ({"metrics": []}, "spec.metrics"),
        ({"metrics": ["f1", "f1"]}, "spec.metrics"),
        ({"direction": pb.DIRECTION_UNSPECIFIED}, "spec"),
        ({"at_most": 1.0}, "spec"),
        ({"min_items": 1}, "spec"),
        ({"unit": "u" * 65}, "spec.unit"),
        ({"target": float("nan")}, "spec.target"),
        ({"target": 1e308}, "spec.target"),
        ({"statistic": pb.STATISTIC_SHARE, "at_least": 1.0, "margin": 1.5, "target": 1.6}, "spec"),
        ({"statistic": pb.STATISTIC_SHARE, "at_least": 1.0, "margin": -0.5}, "spec"),
    ],
)
def test_a_wrong_description_is_named(changed: dict[str, Any], field: str) -> None:
    """What no gate can have is refused before anything is computed."""
    head = pb.GateHead(spec=pb.GateSpec(**{**SPEC, **changed}))
    with pytest.raises(InvalidArgumentError) as caught:
        request_parsing.resolve_gate(head, CATALOGUE)

    assert caught.value.field == field


def test_scores_are_of_the_gates_metrics() -> None:
    """One that is missing, one too many, and a baseline that is missing are named."""
    gate = CATALOGUE.gates["A.em_f1"].rule
    head = pb.GateHead(claim="c", gate_id=gate.id, lineage=LINEAGE)
    parsed = request_parsing.parse_gate_check(head, gate, paired(*gate.metrics))
    for scores, text in (
        (paired("f1"), "missing: exact_match"),
        (paired(*gate.metrics, "bleu"), "no metric bleu"),
        (paired(*gate.metrics, baseline=False), "baseline scores are missing"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            request_parsing.parse_gate_check(head, gate, scores)

    assert parsed.gate is gate


def test_p_values_are_probabilities_with_unique_names() -> None:
    """Out of range, repeated, and a rate that is no rate."""
    good = request_parsing.parse_p_values([pb.NamedP(name="a", p=0.5), pb.NamedP(name="b", p=0)])
    for entries in (
        [pb.NamedP(name="a", p=1.5)],
        [pb.NamedP(name="a", p=float("nan"))],
        [pb.NamedP(name="a"), pb.NamedP(name="a")],
        [pb.NamedP(p=0.5)],
    ):
        with pytest.raises(InvalidArgumentError, match="given"):
            request_parsing.parse_p_values(entries)
    with pytest.raises(InvalidArgumentError, match="alpha"):
        request_parsing.parse_rate(pb.CorrectRequest(alpha=1.0))

    assert good == {"a": 0.5, "b": 0.0}
    assert request_parsing.parse_rate(pb.CorrectRequest()) is None
    assert request_parsing.parse_rate(pb.CorrectRequest(alpha=0.1)) == 0.1
