"""RouterService: translates protobuf messages to calls of the model host and back."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from bem.errors import InvalidRequestError
from bem_fleet.services.router.generation_messages import complete_message, delta_message
from bem_fleet.services.router.model_host import LazyModelHost
from bem_fleet.services.router.plan_messages import is_planned
from bem_fleet.services.router.planned_calls import PlannedCalls, unplanned
from bem_fleet.services.router.request_parsing import RequestedStrength, requested_safety_strength
from bem_fleet.serving.status import STATUS
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import UnavailableError
from grpc import aio

__all__ = ["SERVICE", "STATUS", "RouterServicer"]

MAX_IDS = 1_048_576
SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name


class RouterServicer(rpc.RouterServiceServicer):
    """Serves the router's own service.

    Args:
        host: Model host, which may still be loading.

    Attributes:
        planned: Calls of the model ``router`` and of its policy; None while the model is loading.
    """

    def __init__(self, host: LazyModelHost) -> None:
        self._host = host
        self.planned: PlannedCalls | None = None

    async def Generate(
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the output deltas of a request.

        The first response names the model version that serves the request: the one that the engine
        leased when it admitted the request, which a reload in the meantime may have changed.
        """
        host = self._host.get()
        deadline, strength = deadline_of(context), safety_strength_of(context)
        if is_planned(request):
            async with aclosing(self._planned().generate(request, deadline, strength)) as planned:
                async for response in planned:
                    yield response
            return
        parsed = host.parse(request, deadline, strength)
        first = True
        async for delta in host.generate(parsed):
            response = delta_message(delta)
            response.model_version = host.model_version(delta.adapter_version) if first else ""
            response.usage.prompt_tokens = len(parsed.prompt_ids)
            response.usage.completion_tokens = delta.completion_tokens
            yield response
            first = False

    async def Complete(
        self, request: pb.CompleteRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CompleteResponse:
        """Return the complete output of a request."""
        host = self._host.get()
        deadline, strength = deadline_of(context), safety_strength_of(context)
        if is_planned(request.request):
            return await self._planned().complete(request.request, deadline, strength)
        parsed = host.parse(request.request, deadline, strength)
        output = await host.complete(parsed)
        response = complete_message(output)
        response.usage.prompt_tokens = len(parsed.prompt_ids)
        response.usage.completion_tokens = output.completion_tokens
        response.model_version = host.model_version(output.adapter_version)
        return response

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        """Count the tokens of a request's prompt; the engine is not asked."""
        host = self._host.get()
        wanted = unplanned(request.request) if is_planned(request.request) else request.request
        parsed = host.parse(wanted, deadline_of(context), safety_strength_of(context))
        adapter = host.find_adapter(wanted.model)
        return pb.CountTokensResponse(
            usage=pb.Usage(prompt_tokens=len(parsed.prompt_ids)),
            model_version=host.model_version(adapter.version if adapter else ""),
        )

    async def Tokenize(
        self,
        request: pb.TokenizeRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.TokenizeResponse:
        """Return the token ids of a request's prompt; the engine is not asked."""
        host = self._host.get()
        wanted = unplanned(request.request) if is_planned(request.request) else request.request
        ids = host.tokenize(wanted)
        return pb.TokenizeResponse(
            ids=ids,
            tokens=host.token_bytes(ids) if request.with_bytes else (),
            context_tokens=host.context_tokens,
        )

    async def Detokenize(
        self,
        request: pb.DetokenizeRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.DetokenizeResponse:
        """Return the text of token ids; the engine is not asked."""
        if len(request.ids) > MAX_IDS:
            raise InvalidRequestError(
                "ids", f"{len(request.ids)} ids; at most {MAX_IDS} are allowed"
            )
        return pb.DetokenizeResponse(text=self._host.get().detokenize(request.ids))

    async def Plan(
        self, request: pb.PlanRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.PlanResponse:
        """Return and explain the plan of a request."""
        report = await self._planned().explain(
            request.request, deadline_of(context), safety_strength_of(context)
        )
        return pb.PlanResponse(plan=report)

    async def ApplyPolicyUpdate(
        self,
        request: pb.ApplyPolicyUpdateRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.ApplyPolicyUpdateResponse:
        """Install an updated policy if it is within the trust region."""
        return await self._planned().apply_update(request)

    async def ListPolicyVersions(
        self,
        request: pb.ListPolicyVersionsRequest,  # noqa: ARG002
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.ListPolicyVersionsResponse:
        """List the policy versions that can be restored."""
        return await self._planned().list_versions()

    async def Restore(
        self,
        request: pb.RestoreRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> pb.RestoreResponse:
        """Make a stored policy version the current one."""
        return await self._planned().restore(request.version)

    def _planned(self) -> PlannedCalls:
        if self.planned is None:
            raise UnavailableError("the model is still loading", retry_after_s=2.0)
        return self.planned


def deadline_of(context: aio.ServicerContext[Any, Any]) -> float | None:
    """Return the time at which the caller stops waiting, on the clock of ``time.monotonic()``."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def safety_strength_of(context: aio.ServicerContext[Any, Any]) -> RequestedStrength:
    """Return the strength of the safety adapter that the caller requests.

    Raises:
        InvalidRequestError: ``bem-safety-strength`` or ``bem-safety-minimum`` is malformed.
    """
    return requested_safety_strength(context.invocation_metadata() or ())
