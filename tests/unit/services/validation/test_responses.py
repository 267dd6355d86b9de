"""Responses of ValidationService."""

from dataclasses import replace

from bem_fleet.services.validation.canary_analysis import CanaryAssessment
from bem_fleet.services.validation.claim_ledger import RecordFault
from bem_fleet.services.validation.claims import Claim, EffectSizes, RecordedClaim
from bem_fleet.services.validation.declared_families import DeclaredFamily
from bem_fleet.services.validation.responses import (
    canary_response,
    claim_message,
    claims_response,
    compare_response,
    family_response,
    gate_response,
)
from bem_fleet.stats.canary_gate import CanaryVerdict, MetricEvidence
from bemfleet.validation.v1 import validation_pb2 as pb

from tests.unit.services.validation.test_claims import LINEAGE, MEASURED


def recorded(**changed: object) -> RecordedClaim:
    """Return a recorded claim."""
    claim = Claim("key", "digest", LINEAGE, MEASURED, **changed)  # type: ignore[arg-type]
    return RecordedClaim("1732430000000-0", claim, 0.08, 2)


def test_what_does_not_vary_is_unset() -> None:
    """An interval or an effect that there is not is absent, not zero."""
    flat = replace(MEASURED, low=None, high=None)
    effect = EffectSizes(None, None, 0.0, 0.0, 0.0)
    response = compare_response(recorded(effect=effect))
    response_flat = claim_message(replace(recorded(), claim=Claim("k", "d", LINEAGE, flat)))

    assert response.measured.HasField("ci_low")
    assert not response.effect.HasField("d_z")
    assert not response.HasField("p_permutation")
    assert not response_flat.measured.HasField("ci_low")


def test_a_gate_has_its_status_and_reasons() -> None:
    """The record's place in the family comes with it."""
    response = gate_response(recorded(gate_id="A.em_f1", status="fail", reasons=("too few",)))

    assert (response.gate_id, response.status) == ("A.em_f1", pb.GATE_STATUS_FAIL)
    assert list(response.reasons) == ["too few"]
    assert (response.claim.p_adjusted, response.claim.family) == (0.08, 2)
    assert response.claim.recorded_unix_ms == 1_732_430_000_000


def test_a_page_names_its_unreadable_records() -> None:
    """They stand beside the claims, and the last id is that of the page."""
    fault = RecordFault("1732430000000-1", "claim: Invalid JSON")
    response = claims_response([recorded()], [fault], "1732430000000-1", True)

    assert [one.ref.id for one in response.claims] == ["1732430000000-0"]
    assert [(one.id, one.problem) for one in response.unreadable] == [(fault.id, fault.problem)]
    assert (response.last_id, response.has_more) == (fault.id, True)


def test_a_family_is_answered_with_its_members() -> None:
    """Names only: the terms are the caller's own."""
    response = family_response(DeclaredFamily("study", {"a": {}, "b": {}}, 5))

    assert (response.family, list(response.members), response.declared_unix_ms) == (
        "study",
        ["a", "b"],
        5,
    )


def test_every_verdict_has_a_message() -> None:
    """The mean gain is absent before the first pair."""
    evidence = {
        "errors": MetricEvidence(0.0, 1.0, 1.0),
        "latency": MetricEvidence(0.1, 0.2, 0.9, pairs=5, correlation_time=2.5),
    }
    responses = [canary_response(CanaryAssessment(v, ("why",), 5, evidence)) for v in CanaryVerdict]

    assert len({one.verdict for one in responses}) == len(CanaryVerdict)
    first, second = responses[0].evidence
    assert not first.HasField("mean_gain")
    assert (second.metric, second.mean_gain, second.pairs) == ("latency", 0.1, 5)
    assert second.correlation_time == 2.5
