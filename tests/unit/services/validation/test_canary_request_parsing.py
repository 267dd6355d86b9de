"""Parsing of canary analysis requests."""

from typing import Any

import pytest
from bem_fleet.services.validation.canary_request_parsing import parse_analysis_request, parse_terms
from bem_fleet.services.validation.probe_client import ProbeTarget
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.errors import InvalidArgumentError

TERMS: dict[str, Any] = {
    "alpha": 0.05,
    "max_pairs": 100,
    "error_margin": 0.02,
    "violation_margin": 0.03,
    "latency_margin": 1.25,
    "quality_margin": 0.04,
    "error_limit": 10,
    "violation_limit": 20,
    "min_answered": 0.875,
    "tail_ratio": 1.5,
    "p95_margin": 0.05,
    "p99_margin": 0.06,
}
STABLE, CANARIES = {"m": "s:1"}, {"m": "c:1"}
SIDES = {"mission": "m", "stable": pb.CanarySide(model="a"), "canary_has_pods": True}
PROBE = pb.CanaryProbe(prompt="?", answers=["!"])


def request(**changed: Any) -> pb.AnalyzeCanaryRequest:
    """Return a valid request with changes."""
    fields = {"canary_id": "ns/m/a", "terms": pb.CanaryTerms(**TERMS), **changed}
    return pb.AnalyzeCanaryRequest(**fields)


def test_every_term_is_read_from_its_own_field() -> None:
    """No two fields are mixed up."""
    terms = parse_terms(pb.CanaryTerms(**TERMS))

    assert {name: getattr(terms, name) for name in TERMS} == TERMS


@pytest.mark.parametrize("missing", TERMS)
def test_every_term_is_required(missing: str) -> None:
    """There is no default here: the Mission's schema has it."""
    given = {name: value for name, value in TERMS.items() if name != missing}
    with pytest.raises(InvalidArgumentError, match=f"terms.{missing}: is missing"):
        parse_terms(pb.CanaryTerms(**given))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("latency_margin", 1.0),
        ("latency_margin", 4.0),
        ("error_margin", float("nan")),
        ("max_pairs", 0),
        ("max_pairs", 200_001),
        ("error_limit", 101),
        ("violation_limit", -1),
        ("min_answered", 1.0),
        ("tail_ratio", 1.0),
        ("tail_ratio", 100.0),
        ("p95_margin", 0.0),
        ("p99_margin", 1.0),
    ],
)
def test_a_term_out_of_range_is_named(field: str, value: float) -> None:
    """The error has the field and its limits."""
    with pytest.raises(InvalidArgumentError, match="out of range") as caught:
        parse_terms(pb.CanaryTerms(**{**TERMS, field: value}))

    assert caught.value.field == f"terms.{field}"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"canary_id": ""}, "canary_id"),
        ({"canary_id": "x" * 257}, "canary_id"),
        ({"canary_id": "ns/m/a:scores"}, "canary_id"),
        ({"canary_id": "ns/m/a:decisions"}, "canary_id"),
        ({"probes": [PROBE]}, "mission"),
        ({"probes": [PROBE], **SIDES, "mission": "127.0.0.1:6379"}, "mission"),
        ({"probes": [PROBE], **SIDES, "mission": "unix:/run/docker.sock"}, "mission"),
        ({"probes": [PROBE] * 201, **SIDES}, "probes"),
        ({"probes": [pb.CanaryProbe(answers=["!"])], **SIDES}, "probes.prompt"),
        ({"probes": [pb.CanaryProbe(prompt="x" * 8193, answers=["!"])], **SIDES}, "probes.prompt"),
        ({"probes": [pb.CanaryProbe(prompt="?")], **SIDES}, "probes.answers"),
    ],
)
def test_a_wrong_request_is_named(changed: dict[str, Any], field: str) -> None:
    """The score stream of a canary is no canary, and probes need a mission of the settings."""
    with pytest.raises(InvalidArgumentError) as caught:
        parse_analysis_request(request(**changed), STABLE, CANARIES)

    assert caught.value.field == field


def test_targets_come_with_probes() -> None:
    """Without probes the tracks are not needed."""
    shared = {**SIDES, "canary_has_pods": False}
    both, one, none = (
        parse_analysis_request(request(**fields), STABLE, CANARIES).targets
        for fields in ({"probes": [PROBE], **SIDES}, {"probes": [PROBE], **shared}, {})
    )

    assert both == (ProbeTarget("s:1", "a"), ProbeTarget("c:1", ""))
    assert one == (ProbeTarget("s:1", "a"), ProbeTarget("s:1", ""))
    assert none is None
