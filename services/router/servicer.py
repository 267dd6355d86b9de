"""RouterService: protobuf in, the mission's call, protobuf out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from bem import errors
from bem.engine import TokenLogprob, TopLogprob
from bem_fleet.services.router.model_host import Mission
from bem_fleet.services.router.request_parsing import engine_request, safety_strength
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import StatusTable, UnavailableError
from grpc import aio

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name

STATUS: StatusTable = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.AdapterNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SlotsFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.EngineClosedError: grpc.StatusCode.UNAVAILABLE,
    errors.ArtifactFormatError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ArtifactTamperedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BaseMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
}

_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


class LazyModelHost:
    """The mission once it is loaded; until then every call is UNAVAILABLE."""

    def __init__(self) -> None:
        self.loaded: Mission | None = None

    def get(self) -> Mission:
        """Return the mission.

        Raises:
            UnavailableError: It is still loading.
        """
        if self.loaded is None:
            raise UnavailableError("the model is still loading", retry_after_s=2.0)
        return self.loaded


class RouterServicer(rpc.RouterServiceServicer):
    """Answers with the mission in ``holder``."""

    def __init__(self, holder: LazyModelHost) -> None:
        self._holder = holder

    async def Generate(
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the pieces of an answer."""
        mission = self._holder.get()
        asked = engine_request(mission, request, deadline_of(context), strength_of(context))
        version = mission.version_of(mission.adapter_of(request.model))
        async for piece in mission.generate(asked):
            response = pb.GenerateResponse(
                text=piece.text,
                finish_reason=_FINISH[piece.finish],
                model_version=version,
                logprobs=[_logprob(one) for one in piece.logprobs],
            )
            if piece.finish:
                response.usage.prompt_tokens = len(asked.prompt_ids)
                response.usage.completion_tokens = piece.completion_tokens
            yield response
            version = ""

    async def Complete(
        self, request: pb.CompleteRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CompleteResponse:
        """Return an answer whole."""
        mission = self._holder.get()
        asked = engine_request(mission, request.request, deadline_of(context), strength_of(context))
        version = mission.version_of(mission.adapter_of(request.request.model))
        piece = await mission.complete(asked)
        usage = pb.Usage(
            prompt_tokens=len(asked.prompt_ids), completion_tokens=piece.completion_tokens
        )
        return pb.CompleteResponse(
            text=piece.text,
            finish_reason=_FINISH[piece.finish],
            usage=usage,
            model_version=version,
            logprobs=[_logprob(one) for one in piece.logprobs],
        )


def deadline_of(context: aio.ServicerContext[Any, Any]) -> float | None:
    """Return when the caller stops waiting, on the clock of ``time.monotonic()``."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _logprob(one: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(chosen=_likely(one), top=[_likely(other) for other in one.top])


def _likely(one: TopLogprob) -> pb.LikelyToken:
    return pb.LikelyToken(id=one.token, token=one.text, logprob=one.logprob)


def strength_of(context: aio.ServicerContext[Any, Any]) -> float | None:
    """Return how much of the safety adapter the caller asks for, in [0, 1].

    Raises:
        InvalidRequestError: The header ``bem-safety-strength`` is no such number.
    """
    return safety_strength(context.invocation_metadata() or ())
