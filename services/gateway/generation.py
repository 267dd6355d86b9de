"""OpenAI completions as calls to the router: unary or streaming, one call per choice.

The router's own messages are the output deltas: a streamed choice is a series of
``GenerateResponse``, a unary one a single ``CompleteResponse``, which has the same fields.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from bem_fleet.services.gateway.call_slots import CallSlots
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.openai_tools import NamedTool
from bem_fleet.services.gateway.request_context import until_disconnect
from bem_fleet.services.gateway.response_format import structured_output
from bem_fleet.services.gateway.withheld import Withheld, withheld_by, withheld_output
from bemfleet.router.v1 import router_pb2 as pb
from fastapi import Request
from fleet.clients import outgoing_metadata
from fleet.metrics import observe
from google.protobuf.message import EncodeError
from prometheus_client import Histogram

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
_GENERATE, _COMPLETE = f"/{SERVICE}/Generate", f"/{SERVICE}/Complete"
_CONTENT_FILTER = "content_filter"
_FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p"),
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
        withheld: Reason why the sidecar withheld the rest of the choice; None if it did not.
    """

    index: int
    output: pb.GenerateResponse | pb.CompleteResponse
    withheld: Withheld | None = None

    @property
    def finish_reason(self) -> str | None:
        """Reason why the choice ended, as OpenAI names it; None before its last delta."""
        if self.withheld:
            return _CONTENT_FILTER
        return _FINISH_REASONS.get(self.output.finish_reason)


def router_requests(
    body: ChatRequest | CompletionRequest, session: str = ""
) -> list[pb.GenerateRequest]:
    """Return one router request per choice; the seed of choice ``i`` is the request's plus ``i``.

    Args:
        body: Validated body.
        session: Session of the request; may be empty.

    Raises:
        ApiError: A text of the body is not valid Unicode.
    """
    requests = []
    for prompt_input in _inputs(body):
        for choice in range(body.choices_per_prompt):
            request = pb.GenerateRequest(model=body.model, **prompt_input)
            request.stop.extend(body.stop or ())
            request.stop_token_ids.extend(body.stop_token_ids or ())
            request.session = session
            request.adapters.extend(
                pb.ScaledAdapter(name=one.name, scale=one.scale) for one in body.adapters or ()
            )
            request.plan.extend(pb.MacroAction(**step.model_dump()) for step in body.plan or ())
            if body.output_limit is not None:
                request.max_tokens = body.output_limit
            _copy_sampling(request, body)
            form = structured_output(body.response_format, body.structured_outputs)
            if form is not None:
                request.structured_output.CopyFrom(form)
            if body.seed is not None:  # wraps around within a signed 64-bit integer
                request.sampling.seed = (body.seed + choice + 2**63) % 2**64 - 2**63
            requests.append(request)
    return requests


def _inputs(body: ChatRequest | CompletionRequest) -> list[dict[str, Any]]:
    """Return the input of each prompt, by the name of its field in the router's request."""
    if isinstance(body, CompletionRequest):
        return [
            {"prompt": one} if isinstance(one, str) else {"prompt_ids": one} for one in body.prompt
        ]
    roles = {"developer": "system"}
    chat = pb.ChatPrompt(
        messages=[
            pb.ChatMessage(
                role=roles.get(message.role, message.role),
                content=message.text,
                tool_call_id=message.tool_call_id or "",
                tool_calls=[
                    pb.ToolCall(
                        id=call.id,
                        name=call.function.name,
                        arguments=call.function.arguments,
                    )
                    for call in message.tool_calls or ()
                ],
            )
            for message in body.messages
        ],
        continue_final_message=bool(body.continue_final_message),
    )
    _copy_tools(chat, body)
    if body.add_generation_prompt is not None:
        chat.add_generation_prompt = body.add_generation_prompt
    return [{"chat": chat}]


def _copy_tools(chat: pb.ChatPrompt, body: ChatRequest) -> None:
    """Copy the tools that the answer may call, and the choice among them."""
    for tool in body.offered_tools:
        own = tool.function
        chat.tools.add(
            name=own.name,
            description=own.description or "",
            parameters="" if own.parameters is None else json.dumps(own.parameters),
        )
    if not chat.tools:
        return
    if isinstance(body.tool_choice, NamedTool):
        chat.tool_name = body.tool_choice.function.name
    elif body.tool_choice == "required":
        chat.tool_choice = pb.TOOL_CHOICE_REQUIRED
    if body.parallel_tool_calls is not None:
        chat.parallel_tool_calls = body.parallel_tool_calls


def _copy_sampling(request: pb.GenerateRequest, body: ChatRequest | CompletionRequest) -> None:
    """Copy the fields that the body sets; the others stay unset."""
    for name in _SAMPLING_FIELDS:
        if (value := getattr(body, name)) is not None:
            setattr(request.sampling, name, value)
    if body.logprob_count is not None:
        request.sampling.logprobs = body.logprob_count
    for token, bias in (body.logit_bias or {}).items():
        request.sampling.logit_bias[token] = bias
    for name in ("adapter_scale", "adapter_from_message", "min_tokens", "ignore_eos", "echo"):
        if (value := getattr(body, name, None)) is not None:
            setattr(request, name, value)


async def stream_choices(
    stub: CanaryStub,
    requests: Sequence[pb.GenerateRequest],
    timeout_s: float,
    *,
    concurrency: int,
) -> AsyncGenerator[ChoiceDelta]:
    """Yield the deltas of all choices as they arrive; closing the iteration cancels the calls.

    Args:
        stub: Stub of the mission.
        requests: Requests of the choices.
        timeout_s: Deadline of all of them together, in seconds.
        concurrency: Calls that run at once.

    Raises:
        grpc.RpcError: A call failed.
    """
    if len(requests) == 1:  # needs neither task nor queue
        async with aclosing(_stream_choice(stub, requests[0], timeout_s, 0)) as deltas:
            async for delta in deltas:
                yield delta
        return
    arrived: asyncio.Queue[ChoiceDelta | Exception] = asyncio.Queue()
    slots, deadline = CallSlots(concurrency), time.monotonic() + timeout_s
    tasks = [
        asyncio.create_task(_enqueue_choice(slots, stub, choice, deadline, arrived))
        for choice in enumerate(requests)
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


async def _enqueue_choice(
    slots: CallSlots,
    stub: CanaryStub,
    choice: tuple[int, pb.GenerateRequest],
    deadline: float,
    arrived: asyncio.Queue[ChoiceDelta | Exception],
) -> None:
    """Put the deltas of one choice into the queue, or the error that ends it."""
    index, request = choice
    began = False
    while True:
        async with slots.slot():
            deltas = _stream_choice(stub, request, _remaining_s(deadline), index)
            try:
                async with aclosing(deltas):
                    async for delta in deltas:
                        began = True
                        arrived.put_nowait(delta)
            except (grpc.RpcError, EncodeError) as err:
                if isinstance(err, grpc.RpcError) and not began and slots.can_wait(err):
                    continue
                arrived.put_nowait(err)
            return


def _remaining_s(deadline: float) -> float:
    """Return the seconds until a value of ``time.monotonic()``; at least a millisecond."""
    return max(0.001, deadline - time.monotonic())


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
                observe(histogram, now - last)
                last, histogram = now, INTER_TOKEN
                delta = ChoiceDelta(index, pb.GenerateResponse.FromString(response))
                yield delta
                if delta.finish_reason:
                    return
    except grpc.RpcError as err:
        reason = withheld_by(err)
        if reason is None:
            raise
        yield ChoiceDelta(index, await withheld_output(stub, request, reason), reason)


async def complete_choices(
    request: Request,
    stub: CanaryStub,
    router_requests: Sequence[pb.GenerateRequest],
    timeout_s: float,
    *,
    concurrency: int,
) -> list[ChoiceDelta]:
    """Return each choice as one delta; a disconnect of the client cancels the calls.

    Args:
        request: Request of the client.
        stub: Stub of the mission.
        router_requests: Requests of the choices.
        timeout_s: Deadline of all of them together, in seconds.
        concurrency: Calls that run at once.

    Raises:
        ApiError: The client disconnected.
        grpc.RpcError: A call failed.
    """
    slots, deadline = CallSlots(concurrency), time.monotonic() + timeout_s
    calls = [
        asyncio.create_task(_complete_in_slot(slots, stub, one, deadline, index))
        for index, one in enumerate(router_requests)
    ]
    try:
        return await until_disconnect(request.receive, asyncio.gather(*calls))
    finally:
        for call in calls:
            call.cancel()


async def _complete_in_slot(
    slots: CallSlots, stub: CanaryStub, request: pb.GenerateRequest, deadline: float, index: int
) -> ChoiceDelta:
    while True:
        async with slots.slot():
            try:
                return await _complete_choice(stub, request, _remaining_s(deadline), index)
            except grpc.RpcError as err:
                if not slots.can_wait(err):
                    raise


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
        reason = withheld_by(err)
        if reason is None:
            raise
        return ChoiceDelta(index, await withheld_output(stub, request, reason), reason)
    return ChoiceDelta(index, pb.CompleteResponse.FromString(response))
