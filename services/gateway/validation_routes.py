"""Validation routes: comparisons, gates, families, p-value corrections and recorded claims."""

from __future__ import annotations  # the typed stub exists in the stubs only

from typing import Annotated, Any

from bem_fleet.services.gateway.body_route import ParameterRoute
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bem_fleet.services.gateway.transcoding import to_json
from bem_fleet.services.gateway.validation_schema import (
    CompareBody,
    CorrectBody,
    FamilyBody,
    GateBody,
    LineageFields,
    Scores,
    Sides,
    SpecFields,
)
from bemfleet.validation.v1 import validation_pb2 as pb
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from fleet.access import Role
from fleet.clients import outgoing_metadata
from google.protobuf.message import Message

routes = APIRouter(prefix="/v1/validation", route_class=ParameterRoute)

_STATISTICS = {
    "difference": pb.STATISTIC_DIFFERENCE,
    "ratio": pb.STATISTIC_RATIO,
    "mean": pb.STATISTIC_MEAN,
    "share": pb.STATISTIC_SHARE,
}
_DIRECTIONS = {"higher": pb.DIRECTION_HIGHER, "lower": pb.DIRECTION_LOWER}
_CORRECTIONS = {
    "benjamini_hochberg": pb.CORRECTION_BENJAMINI_HOCHBERG,
    "benjamini_yekutieli": pb.CORRECTION_BENJAMINI_YEKUTIELI,
}
_STATUSES = {pb.GATE_STATUS_PASS: "pass", pb.GATE_STATUS_FAIL: "fail"}


@routes.post("/compare")
@requires(Role.OPERATOR)
async def compare(request: Request, body: CompareBody) -> JSONResponse:
    """Compare a mission with its baseline and record the claim."""
    head = pb.CompareHead(
        claim=body.claim,
        statistic=_STATISTICS[body.statistic],
        null_value=body.null_value,
        lineage=_lineage(body.lineage),
        family=body.family or "",
        member=body.member or "",
    )
    (scores,) = _scores(body.scores)
    response = await _call_validation(
        request, "Compare", pb.CompareRequest(head=head, scores=scores)
    )
    return JSONResponse({"object": "validation.comparison", **_to_json(response)})


@routes.post("/gate")
@requires(Role.OPERATOR)
async def gate(request: Request, body: GateBody) -> JSONResponse:
    """Evaluate a gate and record the claim."""
    head = pb.GateHead(claim=body.claim, lineage=_lineage(body.lineage), family=body.family or "")
    if body.spec:
        head.spec.CopyFrom(_gate_spec(body.spec))
    else:
        head.gate_id = body.gate_id or ""
    response = await _call_validation(
        request, "Gate", pb.GateRequest(head=head, scores=_scores(body.scores))
    )
    return JSONResponse(
        {"object": "validation.verdict", **_to_json(response), "status": _STATUSES[response.status]}
    )


@routes.post("/families")
@requires(Role.OPERATOR)
async def declare_family(request: Request, body: FamilyBody) -> JSONResponse:
    """Declare a family of claims before their data."""
    members = [
        pb.FamilyMember(
            comparison=pb.ComparisonTerms(
                member=one.member,
                metric=one.metric,
                statistic=_STATISTICS[one.statistic],
                null_value=one.null_value,
            )
        )
        for one in body.comparisons
    ]
    members += [pb.FamilyMember(gate=_gate_spec(one)) for one in body.gates]
    response = await _call_validation(
        request, "DeclareFamily", pb.DeclareFamilyRequest(family=body.family, members=members)
    )
    return JSONResponse({"object": "validation.family", **_to_json(response)})


@routes.post("/correct")
@requires(Role.OPERATOR)
async def correct(request: Request, body: CorrectBody) -> JSONResponse:
    """Adjust p-values for the false discovery rate; record nothing."""
    message = pb.CorrectRequest(
        given=[pb.NamedP(name=name, p=p) for name, p in body.p_values.items()],
        with_family=body.with_family,
        family=body.family or "",
        alpha=body.alpha,
        correction=_CORRECTIONS[body.correction],
    )
    response = await _call_validation(request, "Correct", message)
    return JSONResponse({"object": "list", "data": [_to_json(one) for one in response.corrected]})


@routes.get("/claims")
@requires(Role.OPERATOR)
async def claims(
    request: Request,
    after: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    """List recorded claims, oldest first."""
    response = await _call_validation(
        request, "ListClaims", pb.ListClaimsRequest(after=after, limit=limit)
    )
    data = [
        {
            "id": claim.ref.id,
            "object": "validation.claim",
            **_to_json(claim),
            "status": _STATUSES.get(claim.status),
        }
        for claim in response.claims
    ]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "has_more": response.has_more,
            "last_id": response.last_id or None,
            "unreadable": [_to_json(one) for one in response.unreadable],
        }
    )


async def _call_validation(request: Request, method: str, message: Message) -> Any:
    state = state_of(request)
    return await getattr(state.validation, method)(
        message, timeout=state.settings.validation_timeout_s, metadata=outgoing_metadata()
    )


def _lineage(lineage: LineageFields) -> pb.Lineage:
    return pb.Lineage(**lineage.model_dump())


def _gate_spec(spec: SpecFields) -> pb.GateSpec:
    fields = spec.model_dump(exclude_none=True)
    fields["statistic"] = _STATISTICS[spec.statistic]
    fields["direction"] = _DIRECTIONS[spec.direction]
    return pb.GateSpec(**fields)


def _scores(metrics: dict[str, Sides]) -> list[pb.MetricScores]:
    return [
        pb.MetricScores(
            metric=name,
            mission=_matrix(sides.mission),
            baseline=None if sides.baseline is None else _matrix(sides.baseline),
            clusters=_clusters(sides),
        )
        for name, sides in metrics.items()
    ]


def _clusters(sides: Sides) -> pb.ItemClusters | None:
    """Return the clusters of the items, numbered in the order in which they occur."""
    if sides.clusters is None:
        return None
    numbers: dict[str, int] = {}
    return pb.ItemClusters(
        unit=sides.unit or "",
        numbers=[numbers.setdefault(name, len(numbers)) for name in sides.clusters],
    )


def _matrix(scores: Scores) -> pb.ScoreMatrix:
    rows = [row for row in scores if isinstance(row, list)]
    if not rows:
        return pb.ScoreMatrix(values=[one for one in scores if not isinstance(one, list)])
    return pb.ScoreMatrix(seeds=len(rows), values=[one for row in rows for one in row])


def _to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON with proto field names; unset optional numbers are left out."""
    converted = to_json(message)
    # 64-bit integers are strings in protobuf's JSON.
    for part in (converted, converted.get("claim"), converted.get("ref")):
        for name in ("recorded_unix_ms", "declared_unix_ms"):
            if isinstance(part, dict) and name in part:
                part[name] = int(part[name])
    return converted
