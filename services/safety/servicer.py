"""SafetyService and reflection: the services that the sidecar itself answers."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from bem_fleet.guard.findings import ScoringQuery, Span
from bem_fleet.guard.policy import REQUEST_SCORERS, RESPONSE_SCORERS, SPAN_SCORERS, Action
from bem_fleet.guard.spans import merge_spans, redact
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore, parse_strength
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc
from fleet import logs
from fleet.access import principal
from fleet.audit_chain import ChainWriter
from fleet.errors import InvalidArgumentError, StatusTable
from grpc import aio
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection

SERVICE = pb.DESCRIPTOR.services_by_name["SafetyService"].full_name
STATUS: StatusTable = {}
MAX_TEXTS = 64

_ACTIONS = {
    Action.ALLOW: pb.ACTION_ALLOW,
    Action.REDACT: pb.ACTION_REDACT,
    Action.FILTER: pb.ACTION_FILTER,
    Action.BLOCK: pb.ACTION_BLOCK,
}
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class SafetyServicer(rpc.SafetyServiceServicer):
    """Evaluates texts on request, and stores safety strengths.

    Args:
        settings: Limits of requests.
        evaluator: Policy evaluator.
        policy_file: Policy in force.
        strength: Safety strengths by tenant.
        audit: Audit chain; receives a record of every change of a strength.
    """

    def __init__(
        self,
        settings: SafetySettings,
        evaluator: PolicyEvaluator,
        policy_file: PolicyFile,
        strength: SafetyStrengthStore,
        audit: ChainWriter,
    ) -> None:
        self._max_text_chars = settings.max_text_chars
        self._evaluator = evaluator
        self._policy_file = policy_file
        self._strength = strength
        self._audit = audit

    async def Check(self, request: pb.CheckRequest, context: Context) -> pb.CheckResponse:  # noqa: ARG002 - gRPC's
        """Return the verdict that the text would get in a call."""
        side = self._validate(request)
        verdict = await self._evaluator.evaluate(request.text, side, prompt=request.prompt)
        violated = {v.rule for v in verdict.violations}
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
                    violated=rule in violated,
                )
                for rule in self._policy_file.current.rules
                if rule.side == side and rule.scorer in verdict.scores
            ],
            overall=verdict.overall,
            spans=[_span(span) for span in spans],
            text=redact(request.text, spans) if verdict.allowed else "",
            policy=verdict.version,
        )

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: ARG002 - gRPC's
        """Return the scores of all scorers of one side."""
        side = self._validate(request)
        scorers = frozenset(REQUEST_SCORERS if side == "request" else RESPONSE_SCORERS)
        query = ScoringQuery(request.text, side, scorers, request.prompt)
        finding = await self._evaluator.score(query)
        return pb.ScoreResponse(
            scores=finding.scores, spans=[_span(span) for span in merge_spans(finding.spans)]
        )

    async def Redact(self, request: pb.RedactRequest, context: Context) -> pb.RedactResponse:  # noqa: ARG002 - gRPC's
        """Return the texts without personal data and secrets."""
        total, limit = sum(map(len, request.texts)), self._max_text_chars
        if not 1 <= len(request.texts) <= MAX_TEXTS or total > limit:
            raise InvalidArgumentError(
                "texts",
                f"must be 1 to {MAX_TEXTS} texts with at most {limit} characters in all, are "
                f"{len(request.texts)} with {total}",
            )
        findings = await asyncio.gather(*(self._find_spans(text) for text in request.texts))
        return pb.RedactResponse(
            texts=[redact(text, one) for text, one in zip(request.texts, findings, strict=True)],
            labels=sorted({span.label for one in findings for span in one}),
        )

    async def _find_spans(self, text: str) -> list[Span]:
        query = ScoringQuery(text, "response", frozenset(SPAN_SCORERS))
        return merge_spans((await self._evaluator.score(query)).spans)

    async def SetStrength(
        self,
        request: pb.SetStrengthRequest,
        context: Context,  # noqa: ARG002 - gRPC's
    ) -> pb.SetStrengthResponse:
        """Store a strength; the change is audited before it takes effect."""
        value = parse_strength("value", request.value)
        floor = parse_strength("floor", request.floor) if request.HasField("floor") else None
        await self._audit.append(
            {
                "request_id": logs.request_id.get(),
                "method": f"/{SERVICE}/SetStrength",
                "action": "strength",
                "principal": principal.get().name,
                "tenant": request.tenant,
                "value": f"{value:.6g}",
                "floor": "" if floor is None else f"{floor:.6g}",
            }
        )
        await self._strength.store(request.tenant, value, floor)
        return pb.SetStrengthResponse(
            value=self._strength.resolve(request.tenant).value or 0.0,
            floor=self._strength.floor,
        )

    def _validate(self, request: pb.CheckRequest | pb.ScoreRequest) -> str:
        """Return the side of the text, ``request`` or ``response``.

        Raises:
            InvalidArgumentError: A text is too short or too long.
        """
        limit = self._max_text_chars
        for name, text, minimum in (("text", request.text, 1), ("prompt", request.prompt, 0)):
            if not minimum <= len(text) <= limit:
                raise InvalidArgumentError(
                    name, f"must have {minimum} to {limit} characters, has {len(text)}"
                )
        return "request" if request.side == pb.SIDE_REQUEST else "response"


def _span(span: Span) -> pb.Span:
    return pb.Span(start=span.start, end=span.end, label=span.label, score=span.score)


class SidecarReflection(reflection_async.ReflectionServicer):  # type: ignore[misc] # untyped base
    """Reflection that describes the mission's services and the sidecar's own as one server.

    Args:
        catalog: Methods of the mission.
    """

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(())
        self._catalog = catalog

    async def ServerReflectionInfo(
        self, request_iterator: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Answer from the present catalog, which changes when the mission restarts."""
        names = {*self._catalog.services, SERVICE, HEALTH, reflection.SERVICE_NAME}
        present = reflection_async.ReflectionServicer(sorted(names), pool=self._catalog.pool)
        async for response in present.ServerReflectionInfo(request_iterator, context):
            yield response
