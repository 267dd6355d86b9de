"""One OpenAI request as calls to the router, whole or piece by piece."""

from __future__ import annotations  # the typed stub exists in the stubs only

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from bem_fleet.services.gateway.edge import cancel_when_left
from bem_fleet.services.gateway.errors import FILTERED, ApiError
from bem_fleet.services.gateway.schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.tracks import Split
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fastapi import Request
from fleet.clients import outgoing_metadata
from fleet.errors import details_of
from google.protobuf.message import EncodeError
from prometheus_client import Histogram

Router: TypeAlias = "rpc.RouterServiceAsyncStub | Split"
FINISH = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
SAMPLING = (
    *("temperature", "top_p", "top_k"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
TTFT = Histogram("bem_gateway_ttft_seconds", "Time to the first piece of an answer.")
INTER_TOKEN = Histogram(
    "bem_gateway_inter_token_seconds",
    "Time between two pieces of an answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)


@dataclass
class Part:
    """A piece of one choice.

    Attributes:
        index: Of the choice.
        text: New text.
        finish: Why the choice ended, in its last part.
        prompt_tokens: Set in the last part.
        completion_tokens: Set in the last part.
        version: Model version, in the first part.
        logprobs: Of the tokens whose text is out with this part, if asked for.
    """

    index: int
    text: str
    finish: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    version: str = ""
    logprobs: Sequence[pb.TokenLogprob] = ()


def wire_requests(body: ChatRequest | CompletionRequest) -> list[pb.GenerateRequest]:
    """Return one router request for each choice; seeds of further choices follow the first's."""
    inputs: list[dict[str, Any]] = []
    limit = body.max_tokens
    if isinstance(body, ChatRequest):
        limit = body.max_completion_tokens or limit
        roles = {"developer": "system"}
        messages = [
            pb.ChatMessage(role=roles.get(m.role, m.role), content=_clean(m.text, "messages"))
            for m in body.messages
        ]
        inputs = [{"chat": pb.ChatPrompt(messages=messages)}]
    else:
        inputs = [{"prompt": _clean(prompt, "prompt")} for prompt in body.prompt]
    requests = []
    for given in inputs:
        for choice in range(body.n or 1):
            request = pb.GenerateRequest(model=_clean(body.model, "model"), **given)
            request.stop.extend(_clean(text, "stop") for text in body.stop or ())
            if limit:
                request.max_tokens = limit
            _set_given(request, body)
            if body.seed is not None:
                request.sampling.seed = (body.seed + choice + 2**63) % 2**64 - 2**63
            requests.append(request)
    return requests


def _set_given(request: pb.GenerateRequest, body: ChatRequest | CompletionRequest) -> None:
    """Copy what the body says; what it leaves out stays unset."""
    for name in SAMPLING:
        if (value := getattr(body, name)) is not None:
            setattr(request.sampling, name, value)
    if body.reported is not None:
        request.sampling.logprobs = body.reported
    for token, bias in (body.logit_bias or {}).items():
        request.sampling.logit_bias[token] = bias
    for name in ("adapter_scale", "adapter_from_message"):
        if (value := getattr(body, name, None)) is not None:
            setattr(request, name, value)


def _clean(text: str, param: str) -> str:
    """Refuse lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ApiError(
            400, f"{param}: is not valid Unicode text", code="invalid_value", param=param
        ) from err
    return text


async def parts(
    router: Router, requests: list[pb.GenerateRequest], timeout_s: float
) -> AsyncGenerator[Part]:
    """Yield the parts of all choices as they come; leaving the iteration cancels the calls."""
    if len(requests) == 1:  # needs neither task nor queue
        async with aclosing(_choice(router, requests[0], timeout_s, 0)) as only:
            async for part in only:
                yield part
        return
    arrived: asyncio.Queue[Part | Exception] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_read(_choice(router, request, timeout_s, index), arrived))
        for index, request in enumerate(requests)
    ]
    left = len(tasks)
    try:
        while left:
            came = await arrived.get()
            if isinstance(came, Exception):
                raise came
            left -= came.finish is not None
            yield came
    finally:
        for task in tasks:
            task.cancel()


async def _read(choice: AsyncGenerator[Part], arrived: asyncio.Queue[Part | Exception]) -> None:
    try:
        async with aclosing(choice):
            async for part in choice:
                arrived.put_nowait(part)
    except (grpc.RpcError, EncodeError) as err:
        arrived.put_nowait(err)


async def _choice(
    router: Router, request: pb.GenerateRequest, timeout_s: float, index: int
) -> AsyncGenerator[Part]:
    """Yield one choice's parts; a withheld answer is an answer, as OpenAI's clients know it."""
    last, seconds = time.perf_counter(), TTFT
    call: Any = router.Generate(request, timeout=timeout_s, metadata=outgoing_metadata())
    try:
        async for answer in call:
            now = time.perf_counter()
            seconds.observe(now - last)
            last, seconds = now, INTER_TOKEN
            part = Part(index, answer.text, version=answer.model_version, logprobs=answer.logprobs)
            if answer.finish_reason:
                part.finish = FINISH[answer.finish_reason]
                part.prompt_tokens = answer.usage.prompt_tokens
                part.completion_tokens = answer.usage.completion_tokens
            yield part
            if part.finish:
                return
    except grpc.RpcError as err:
        if details_of(err).reason != FILTERED:
            raise
        yield Part(index, "", finish="content_filter")
    finally:
        call.cancel()


async def whole(
    request: Request,
    router: Router,
    asked: list[pb.GenerateRequest],
    limit: float,
) -> list[Part]:
    """Return each choice as one part; stops computing when the client goes away."""
    calls = [
        asyncio.create_task(_complete(router, one, limit, index)) for index, one in enumerate(asked)
    ]
    leaving = asyncio.create_task(cancel_when_left(request.receive, calls))
    try:
        return await asyncio.gather(*calls)
    except asyncio.CancelledError:
        if leaving.done():
            raise ApiError(499, "the client went away", code="client_closed_request") from None
        raise
    finally:
        leaving.cancel()
        for call in calls:
            call.cancel()


async def _complete(router: Router, request: pb.GenerateRequest, limit: float, index: int) -> Part:
    try:
        answer = await router.Complete(
            pb.CompleteRequest(request=request), timeout=limit, metadata=outgoing_metadata()
        )
    except grpc.RpcError as err:
        if details_of(err).reason == FILTERED:
            return Part(index, "", finish="content_filter")
        raise
    return Part(
        index,
        answer.text,
        FINISH[answer.finish_reason],
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.model_version,
        answer.logprobs,
    )
