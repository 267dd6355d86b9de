"""SafetyService and reflection: what the sidecar itself answers."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from bem_fleet.guard.findings import ScoringQuery, Span
from bem_fleet.guard.policy import REQUEST_SCORERS, RESPONSE_SCORERS, Action
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.redaction import cut, merge_spans
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore, checked
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc
from fleet import logs
from fleet.audit_chain import ChainWriter
from fleet.errors import InvalidArgumentError, StatusTable
from grpc import aio
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection

SERVICE = pb.DESCRIPTOR.services_by_name["SafetyService"].full_name
STATUS: StatusTable = {}


_ACTIONS = {
    Action.ALLOW: pb.ACTION_ALLOW,
    Action.REDACT: pb.ACTION_REDACT,
    Action.FILTER: pb.ACTION_FILTER,
    Action.BLOCK: pb.ACTION_BLOCK,
}
_OPERATOR = "bem-operator-key"
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class SafetyServicer(rpc.SafetyServiceServicer):
    """Judges texts on request, and keeps the strength.

    Args:
        settings: Limits.
        judge: Gives verdicts.
        rules: The policy in force.
        strength: Of the safety adapter.
        audit: Takes a record of every change of the strength.
    """

    def __init__(
        self,
        settings: SafetySettings,
        judge: PolicyEvaluator,
        rules: PolicyFile,
        strength: SafetyStrengthStore,
        audit: ChainWriter,
    ) -> None:
        self._most = settings.max_text_chars
        self._judge = judge
        self._rules = rules
        self._strength = strength
        self._audit = audit

    async def Check(self, request: pb.CheckRequest, context: Context) -> pb.CheckResponse:  # noqa: ARG002 - gRPC's
        """Return the verdict that the text would get here."""
        on = self._checked(request)
        verdict = await self._judge.check(request.text, on, asked=request.asked)
        broken = {v.rule for v in verdict.violations}
        spans = merge_spans(verdict.spans) if verdict.action == Action.REDACT else []
        return pb.CheckResponse(
            action=_ACTIONS[verdict.action],
            scores=[
                pb.CategoryScore(
                    category=rule.scorer,
                    score=verdict.scores[rule.scorer],
                    threshold=rule.threshold,
                    constraint=rule.constraint,
                    severity=rule.severity,
                    action=_ACTIONS[rule.action],
                    violated=rule in broken,
                )
                for rule in self._rules.current.rules
                if rule.on == on and rule.scorer in verdict.scores
            ],
            overall=verdict.overall,
            spans=[_span(span) for span in spans],
            text=cut(request.text, spans) if verdict.allowed else "",
            policy=verdict.version,
        )

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: ARG002 - gRPC's
        """Return what every scorer of that side reads."""
        on = self._checked(request)
        wanted = frozenset(REQUEST_SCORERS if on == "request" else RESPONSE_SCORERS)
        finding = await self._judge.read(ScoringQuery(request.text, on, wanted, request.asked))
        return pb.ScoreResponse(
            scores=finding.scores, spans=[_span(span) for span in merge_spans(finding.spans)]
        )

    async def SetStrength(
        self, request: pb.SetStrengthRequest, context: Context
    ) -> pb.SetStrengthResponse:
        """Keep a strength; the change is recorded before it counts."""
        given = dict(context.invocation_metadata() or ()).get(_OPERATOR, "")
        self._strength.authorize(str(given))
        value = checked("value", request.value)
        floor = checked("floor", request.floor) if request.HasField("floor") else None
        await self._audit.append(
            {
                "request_id": logs.request_id.get(),
                "method": f"/{SERVICE}/SetStrength",
                "action": "strength",
                "tenant": request.tenant,
                "value": f"{value:.6g}",
                "floor": "" if floor is None else f"{floor:.6g}",
            }
        )
        await self._strength.store(request.tenant, value, floor)
        return pb.SetStrengthResponse(
            value=self._strength.value(request.tenant) or 0.0, floor=self._strength.floor
        )

    def _checked(self, request: pb.CheckRequest | pb.ScoreRequest) -> str:
        """Return which way the text goes, ``request`` or ``response``."""
        for name, text, least in (("text", request.text, 1), ("asked", request.asked, 0)):
            if not least <= len(text) <= self._most:
                raise InvalidArgumentError(
                    name, f"must have {least} to {self._most} characters, has {len(text)}"
                )
        return "request" if request.side == pb.SIDE_REQUEST else "response"


def _span(span: Span) -> pb.Span:
    return pb.Span(start=span.start, end=span.end, label=span.label, score=span.score)


class SidecarReflection(reflection_async.ReflectionServicer):  # type: ignore[misc] # untyped base
    """Describes the mission's services and the sidecar's own as one server."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(())
        self._catalog = catalog

    async def ServerReflectionInfo(
        self, request_iterator: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Answer from what the catalog holds now."""
        names = {*self._catalog.services, SERVICE, HEALTH, reflection.SERVICE_NAME}
        inner = reflection_async.ReflectionServicer(sorted(names), pool=self._catalog.pool)
        async for answer in inner.ServerReflectionInfo(request_iterator, context):
            yield answer
