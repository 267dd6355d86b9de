"""Responses of ValidationService, built from claims and canary decisions."""

from collections.abc import Mapping, Sequence

from bem_fleet.acceptance.gate_evaluation import Measurement
from bem_fleet.services.validation.canary_analysis import CanaryAssessment
from bem_fleet.services.validation.claim_ledger import RecordFault
from bem_fleet.services.validation.claims import RecordedClaim
from bem_fleet.services.validation.declared_families import DeclaredFamily
from bem_fleet.stats.canary_gate import CanaryVerdict
from bem_fleet.stats.fdr import CorrectedPValue
from bemfleet.validation.v1 import validation_pb2 as pb

_GATE_STATUSES = {
    "pass": pb.GATE_STATUS_PASS,
    "fail": pb.GATE_STATUS_FAIL,
    None: pb.GATE_STATUS_UNSPECIFIED,
}


def compare_response(recorded: RecordedClaim) -> pb.CompareResponse:
    """Return a comparison as a message."""
    claim = recorded.claim
    response = pb.CompareResponse(
        measured=_measured_message(claim.measured), claim=_claim_ref(recorded)
    )
    if claim.p_permutation is not None:
        response.p_permutation = claim.p_permutation
    if claim.effect:
        response.effect.rank_biserial = claim.effect.rank_biserial
        response.effect.wins = claim.effect.wins
        response.effect.losses = claim.effect.losses
        if claim.effect.d_z is not None:
            response.effect.d_z = claim.effect.d_z
        if claim.effect.hedges_g is not None:
            response.effect.hedges_g = claim.effect.hedges_g
    return response


def gate_response(recorded: RecordedClaim) -> pb.GateResponse:
    """Return the result of a gate as a message."""
    claim = recorded.claim
    return pb.GateResponse(
        gate_id=claim.gate_id,
        status=_GATE_STATUSES[claim.status],
        reasons=claim.reasons,
        measured=_measured_message(claim.measured),
        claim=_claim_ref(recorded),
    )


def claim_message(recorded: RecordedClaim) -> pb.Claim:
    """Return a recorded claim as a message."""
    claim = recorded.claim
    lineage = pb.Lineage(
        mission_digest=claim.lineage.mission_digest,
        baseline_digest=claim.lineage.baseline_digest,
        data_digest=claim.lineage.data_digest,
        command=claim.lineage.command,
    )
    return pb.Claim(
        ref=_claim_ref(recorded),
        claim=claim.key,
        gate_id=claim.gate_id,
        status=_GATE_STATUSES[claim.status],
        measured=_measured_message(claim.measured),
        lineage=lineage,
        content_digest=claim.digest,
    )


def claims_response(
    claims: Sequence[RecordedClaim], faults: Sequence[RecordFault], last: str, more: bool
) -> pb.ListClaimsResponse:
    """Return a page of the ledger as a message."""
    return pb.ListClaimsResponse(
        claims=[claim_message(claim) for claim in claims],
        unreadable=[pb.UnreadableRecord(id=one.id, problem=one.problem) for one in faults],
        has_more=more,
        last_id=last,
    )


def family_response(family: DeclaredFamily) -> pb.DeclareFamilyResponse:
    """Return a declared family as a message."""
    return pb.DeclareFamilyResponse(
        family=family.name, members=family.members, declared_unix_ms=family.declared_unix_ms
    )


def correct_response(corrected: dict[str, CorrectedPValue]) -> pb.CorrectResponse:
    """Return adjusted p-values as a message."""
    entries = [
        pb.CorrectedP(name=name, p=one.p, p_adjusted=one.p_adjusted, rejected=one.rejected)
        for name, one in corrected.items()
    ]
    return pb.CorrectResponse(corrected=entries)


def _measured_message(measurement: Measurement) -> pb.Measured:
    response = pb.Measured(
        metric=measurement.metric,
        estimate=measurement.figure,
        p=measurement.p,
        p_inversion=measurement.p if measurement.p_inversion is None else measurement.p_inversion,
        items=measurement.items,
        seeds=measurement.seeds,
        method=measurement.method,
        coverage_class=measurement.coverage,
        unit=measurement.unit,
        units=measurement.units,
    )
    if measurement.low is not None:
        response.ci_low = measurement.low
    if measurement.high is not None:
        response.ci_high = measurement.high
    return response


def _claim_ref(recorded: RecordedClaim) -> pb.ClaimRef:
    return pb.ClaimRef(
        id=recorded.id,
        p_adjusted=recorded.p_adjusted,
        family=recorded.family,
        recorded_unix_ms=recorded.recorded_unix_ms,
        family_name=recorded.family_name,
        member=recorded.member,
        attempts=recorded.attempts,
    )


def canary_response(decision: CanaryAssessment) -> pb.AnalyzeCanaryResponse:
    """Return a canary's verdict; the mean gain is unset before the first pair."""
    return pb.AnalyzeCanaryResponse(
        verdict=_CANARY_VERDICTS[decision.verdict],
        reasons=decision.reasons,
        pairs=decision.pairs,
        evidence=[
            pb.CanaryEvidence(
                metric=name,
                mean_gain=one.mean_gain if one.pairs else None,
                p_shown=one.p_shown,
                p_worse=one.p_worse,
                pairs=one.pairs,
                correlation_time=one.correlation_time,
            )
            for name, one in decision.evidence.items()
        ],
    )


_CANARY_VERDICTS: Mapping[CanaryVerdict, pb.CanaryVerdict.ValueType] = {
    CanaryVerdict.CONTINUE: pb.CANARY_VERDICT_CONTINUE,
    CanaryVerdict.PROMOTE: pb.CANARY_VERDICT_PROMOTE,
    CanaryVerdict.ROLLBACK: pb.CANARY_VERDICT_ROLLBACK,
    CanaryVerdict.INCONCLUSIVE: pb.CANARY_VERDICT_INCONCLUSIVE,
}
