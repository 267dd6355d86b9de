"""Findings as messages."""

from collections.abc import Mapping

from bem_fleet.acceptance.gate_evaluation import Measurement
from bem_fleet.services.validation.canaries import Judgement
from bem_fleet.services.validation.claims import Recorded
from bem_fleet.stats.canary_gate import CanaryVerdict
from bem_fleet.stats.fdr import CorrectedPValue
from bemfleet.validation.v1 import validation_pb2 as pb

_STATUS = {
    "pass": pb.GATE_STATUS_PASS,
    "fail": pb.GATE_STATUS_FAIL,
    None: pb.GATE_STATUS_UNSPECIFIED,
}


def compared(recorded: Recorded) -> pb.CompareResponse:
    """Return a comparison as a message."""
    claim = recorded.claim
    answer = pb.CompareResponse(measured=_measured(claim.measured), claim=_ref(recorded))
    if claim.p_permutation is not None:
        answer.p_permutation = claim.p_permutation
    if claim.effect:
        answer.effect.rank_biserial = claim.effect.rank_biserial
        answer.effect.wins = claim.effect.wins
        answer.effect.losses = claim.effect.losses
        if claim.effect.d_z is not None:
            answer.effect.d_z = claim.effect.d_z
        if claim.effect.hedges_g is not None:
            answer.effect.hedges_g = claim.effect.hedges_g
    return answer


def judged(recorded: Recorded) -> pb.GateResponse:
    """Return a verdict as a message."""
    claim = recorded.claim
    return pb.GateResponse(
        gate_id=claim.gate_id,
        status=_STATUS[claim.status],
        reasons=claim.reasons,
        measured=_measured(claim.measured),
        claim=_ref(recorded),
    )


def listed(recorded: Recorded) -> pb.Claim:
    """Return a recorded claim as a message."""
    claim = recorded.claim
    lineage = pb.Lineage(
        mission_digest=claim.lineage.mission_digest,
        baseline_digest=claim.lineage.baseline_digest,
        data_digest=claim.lineage.data_digest,
        command=claim.lineage.command,
    )
    return pb.Claim(
        ref=_ref(recorded),
        claim=claim.key,
        gate_id=claim.gate_id,
        status=_STATUS[claim.status],
        measured=_measured(claim.measured),
        lineage=lineage,
        content_digest=claim.digest,
    )


def corrected(found: dict[str, CorrectedPValue]) -> pb.CorrectResponse:
    """Return a corrected family as a message."""
    entries = [
        pb.CorrectedP(name=name, p=one.p, p_adjusted=one.p_adjusted, rejected=one.rejected)
        for name, one in found.items()
    ]
    return pb.CorrectResponse(corrected=entries)


def _measured(found: Measurement) -> pb.Measured:
    answer = pb.Measured(
        metric=found.metric,
        estimate=found.figure,
        p=found.p,
        p_inversion=found.p if found.p_inversion is None else found.p_inversion,
        items=found.items,
        seeds=found.seeds,
        method=found.method,
        coverage_class=found.coverage,
    )
    if found.low is not None:
        answer.ci_low = found.low
    if found.high is not None:
        answer.ci_high = found.high
    return answer


def _ref(recorded: Recorded) -> pb.ClaimRef:
    return pb.ClaimRef(
        id=recorded.id,
        p_adjusted=recorded.p_adjusted,
        family=recorded.family,
        recorded_unix_ms=recorded.recorded_unix_ms,
    )


def canary(found: Judgement) -> pb.JudgeCanaryResponse:
    """Return a canary's verdict; a mean of nothing is unset."""
    return pb.JudgeCanaryResponse(
        verdict=_CANARY[found.verdict],
        reasons=found.reasons,
        pairs=found.pairs,
        evidence=[
            pb.CanaryEvidence(
                metric=name,
                mean_gain=one.mean_gain if items else None,
                p_shown=one.p_shown,
                p_worse=one.p_worse,
                pairs=items,
            )
            for name, (one, items) in found.evidence.items()
        ],
    )


_CANARY: Mapping[CanaryVerdict, pb.CanaryVerdict.ValueType] = {
    CanaryVerdict.CONTINUE: pb.CANARY_VERDICT_CONTINUE,
    CanaryVerdict.PROMOTE: pb.CANARY_VERDICT_PROMOTE,
    CanaryVerdict.ROLLBACK: pb.CANARY_VERDICT_ROLLBACK,
    CanaryVerdict.INCONCLUSIVE: pb.CANARY_VERDICT_INCONCLUSIVE,
}
