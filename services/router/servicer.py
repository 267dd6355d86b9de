"""RouterService: translates protobuf messages to calls of the model host and back."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from collections.abc import AsyncIterator
from typing import Any

from bem.engine import TokenLogprob, TopLogprob
from bem_fleet.services.router.model_host import LazyModelHost
from bem_fleet.services.router.request_parsing import RequestedStrength, requested_safety_strength
from bem_fleet.serving.status import STATUS
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import aio

__all__ = ["SERVICE", "STATUS", "RouterServicer"]

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name

_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


class RouterServicer(rpc.RouterServiceServicer):
    """Serves the router's own service.

    Args:
        host: Model host, which may still be loading.
    """

    def __init__(self, host: LazyModelHost) -> None:
        self._host = host

    async def Generate(
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the output deltas of a request.

        The first response names the model version that serves the request: the one that the engine
        leased when it admitted the request, which a reload in the meantime may have changed.
        """
        host = self._host.get()
        parsed = host.parse(request, deadline_of(context), safety_strength_of(context))
        first = True
        async for delta in host.generate(parsed):
            response = pb.GenerateResponse(
                text=delta.text,
                finish_reason=_FINISH[delta.finish],
                model_version=host.model_version(delta.adapter_version) if first else "",
                logprobs=[_token_logprob(one) for one in delta.logprobs],
            )
            response.usage.prompt_tokens = len(parsed.prompt_ids)
            response.usage.completion_tokens = delta.completion_tokens
            yield response
            first = False

    async def Complete(
        self, request: pb.CompleteRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CompleteResponse:
        """Return the complete output of a request."""
        host = self._host.get()
        parsed = host.parse(request.request, deadline_of(context), safety_strength_of(context))
        output = await host.complete(parsed)
        usage = pb.Usage(
            prompt_tokens=len(parsed.prompt_ids), completion_tokens=output.completion_tokens
        )
        return pb.CompleteResponse(
            text=output.text,
            finish_reason=_FINISH[output.finish],
            usage=usage,
            model_version=host.model_version(output.adapter_version),
            logprobs=[_token_logprob(one) for one in output.logprobs],
        )

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        """Count the tokens of a request's prompt; the engine is not asked."""
        host = self._host.get()
        parsed = host.parse(request.request, deadline_of(context), safety_strength_of(context))
        adapter = host.find_adapter(request.request.model)
        return pb.CountTokensResponse(
            usage=pb.Usage(prompt_tokens=len(parsed.prompt_ids)),
            model_version=host.model_version(adapter.version if adapter else ""),
        )


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


def _token_logprob(one: TokenLogprob) -> pb.TokenLogprob:
    top = [_likely_token(other) for other in one.top]
    return pb.TokenLogprob(chosen=_likely_token(one), top=top)


def _likely_token(one: TopLogprob) -> pb.LikelyToken:
    return pb.LikelyToken(id=one.token, token=one.text, logprob=one.logprob)
