"""SafetyService and reflection: what the sidecar itself answers."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncIterator
from typing import Any

from bemfleet.safety.v1 import safety_pb2 as pb
from bemfleet.safety.v1 import safety_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError, StatusTable
from grpc import aio
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection

from services.safety.descriptors import Catalog
from services.safety.judge import Judge

SERVICE = pb.DESCRIPTOR.services_by_name["SafetyService"].full_name
MAX_CHARS = 1_000_000
STATUS: StatusTable = {}


class SafetyServicer(rpc.SafetyServiceServicer):
    """Judges texts on request."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def Check(
        self,
        request: pb.CheckRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.CheckResponse:
        """Return the verdict that the text would get at the exit."""
        if not 1 <= len(request.text) <= MAX_CHARS:
            raise InvalidArgumentError(
                "text", f"must have 1 to {MAX_CHARS} characters, has {len(request.text)}"
            )
        verdict = await self._judge.check(request.text)
        score = pb.CategoryScore(
            category=verdict.category, score=verdict.score, threshold=verdict.threshold
        )
        action = pb.ACTION_ALLOW if verdict.allowed else pb.ACTION_FILTER
        return pb.CheckResponse(action=action, scores=[score])


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
