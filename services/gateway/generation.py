"""OpenAI completions as calls to the router: unary or streaming, one call per choice.

The router's own messages are the output deltas: a streamed choice is a series of
``GenerateResponse``, a unary one a single ``CompleteResponse``, which has the same fields.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.request_context import cancel_on_disconnect
from bemfleet.router.v1 import router_pb2 as pb
from fastapi import Request
from fleet import wire
from fleet.clients import outgoing_metadata
from fleet.errors import details_of
from google.protobuf.message import EncodeError
from prometheus_client import Histogram

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
_GENERATE, _COMPLETE = f"/{SERVICE}/Generate", f"/{SERVICE}/Complete"
_CONTENT_FILTER = "content_filter"
_FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
TTFT = Histogram("bem_gateway_ttft_seconds", "Time to the first output delta.")
INTER_TOKEN = Histogram(
    "bem_gateway_inter_token_seconds",
    "Time between two output deltas.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)


@dataclass(frozen=True)
class ChoiceDelta:
    """Output delta of one choice.

    Attributes:
        index: Index of the choice.
        output: Message of the router.
        withheld: Whether the sidecar withheld the rest of the choice.
    """

    index: int
    output: pb.GenerateResponse | pb.CompleteResponse
    withheld: bool = False

    @property
    def finish_reason(self) -> str | None:
        """Reason why the choice ended, as OpenAI names it; None before its last delta."""
        if self.withheld:
            return _CONTENT_FILTER
        return _FINISH_REASONS.get(self.output.finish_reason)


def router_requests(body: ChatRequest | CompletionRequest) -> list[pb.GenerateRequest]:
    """Return one router request per choice; the seed of choice ``i`` is the request's plus ``i``.

    Raises:
        ApiError: A text of the body is not valid Unicode.
    """
    inputs: list[dict[str, Any]] = []
    max_tokens = body.max_tokens
    if isinstance(body, ChatRequest):
        max_tokens = body.max_completion_tokens or max_tokens
        roles = {"developer": "system"}
        messages = [
            pb.ChatMessage(role=roles.get(m.role, m.role), content=_unicode(m.text, "messages"))
            for m in body.messages
        ]
        inputs = [{"chat": pb.ChatPrompt(messages=messages)}]
    else:
        inputs = [{"prompt": _unicode(prompt, "prompt")} for prompt in body.prompt]
    requests = []
    for prompt_input in inputs:
        for choice in range(body.n or 1):
            request = pb.GenerateRequest(model=_unicode(body.model, "model"), **prompt_input)
            request.stop.extend(_unicode(text, "stop") for text in body.stop or ())
            if max_tokens:
                request.max_tokens = max_tokens
            _copy_sampling(request, body)
            if body.seed is not None:  # wraps around within a signed 64-bit integer
                request.sampling.seed = (body.seed + choice + 2**63) % 2**64 - 2**63
            requests.append(request)
    return requests


def _copy_sampling(request: pb.GenerateRequest, body: ChatRequest | CompletionRequest) -> None:
    """Copy the fields that the body sets; the others stay unset."""
    for name in _SAMPLING_FIELDS:
        if (value := getattr(body, name)) is not None:
            setattr(request.sampling, name, value)
    if body.logprob_count is not None:
        request.sampling.logprobs = body.logprob_count
    for token, bias in (body.logit_bias or {}).items():
        request.sampling.logit_bias[token] = bias
    for name in ("adapter_scale", "adapter_from_message"):
        if (value := getattr(body, name, None)) is not None:
            setattr(request, name, value)


def _unicode(text: str, param: str) -> str:
    """Reject lone surrogates, which JSON can express and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ApiError(
            400,
            f"{param}: not valid Unicode text; it has a lone surrogate; remove it",
            code="invalid_value",
            param=param,
        ) from err
    return text


async def stream_choices(
    stub: CanaryStub, requests: Sequence[pb.GenerateRequest], timeout_s: float
) -> AsyncGenerator[ChoiceDelta]:
    """Yield the deltas of all choices as they arrive; closing the iteration cancels the calls.

    Raises:
        grpc.RpcError: A call failed.
    """
    if len(requests) == 1:  # needs neither task nor queue
        async with aclosing(_stream_choice(stub, requests[0], timeout_s, 0)) as deltas:
            async for delta in deltas:
                yield delta
        return
    arrived: asyncio.Queue[ChoiceDelta | Exception] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_enqueue(_stream_choice(stub, request, timeout_s, index), arrived))
        for index, request in enumerate(requests)
    ]
    unfinished = len(tasks)
    try:
        while unfinished:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item.finish_reason is not None
            yield item
    finally:
        for task in tasks:
            task.cancel()


async def _enqueue(
    deltas: AsyncGenerator[ChoiceDelta], arrived: asyncio.Queue[ChoiceDelta | Exception]
) -> None:
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                arrived.put_nowait(delta)
    except (grpc.RpcError, EncodeError) as err:
        arrived.put_nowait(err)


async def _stream_choice(
    stub: CanaryStub, request: pb.GenerateRequest, timeout_s: float, index: int
) -> AsyncGenerator[ChoiceDelta]:
    """Yield the deltas of one choice; a withheld one ends with ``content_filter``, as OpenAI's."""
    last, histogram = time.perf_counter(), TTFT
    responses = stub.stream(
        _GENERATE,
        request.SerializeToString(),
        timeout_s=timeout_s,
        metadata=outgoing_metadata(),
    )
    try:
        async with aclosing(responses):
            async for response in responses:
                now = time.perf_counter()
                histogram.observe(now - last)
                last, histogram = now, INTER_TOKEN
                delta = ChoiceDelta(index, pb.GenerateResponse.FromString(response))
                yield delta
                if delta.finish_reason:
                    return
    except grpc.RpcError as err:
        if details_of(err).reason != wire.CONTENT_FILTERED:
            raise
        yield ChoiceDelta(index, pb.GenerateResponse(), withheld=True)


async def complete_choices(
    request: Request,
    stub: CanaryStub,
    router_requests: Sequence[pb.GenerateRequest],
    timeout_s: float,
) -> list[ChoiceDelta]:
    """Return each choice as one delta; a disconnect of the client cancels the calls.

    Raises:
        ApiError: The client disconnected.
        grpc.RpcError: A call failed.
    """
    calls = [
        asyncio.create_task(_complete_choice(stub, one, timeout_s, index))
        for index, one in enumerate(router_requests)
    ]
    disconnect = asyncio.create_task(cancel_on_disconnect(request.receive, calls))
    try:
        return await asyncio.gather(*calls)
    except asyncio.CancelledError:
        if disconnect.done():
            raise ApiError(
                499, "the client closed the connection", code="client_closed_request"
            ) from None
        raise
    finally:
        disconnect.cancel()
        for call in calls:
            call.cancel()


async def _complete_choice(
    stub: CanaryStub, request: pb.GenerateRequest, timeout_s: float, index: int
) -> ChoiceDelta:
    try:
        response = await stub.unary(
            _COMPLETE,
            pb.CompleteRequest(request=request).SerializeToString(),
            timeout_s=timeout_s,
            metadata=outgoing_metadata(),
        )
    except grpc.RpcError as err:
        if details_of(err).reason == wire.CONTENT_FILTERED:
            return ChoiceDelta(index, pb.CompleteResponse(), withheld=True)
        raise
    return ChoiceDelta(index, pb.CompleteResponse.FromString(response))
