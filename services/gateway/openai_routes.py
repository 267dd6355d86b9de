"""OpenAI-compatible routes: chat completions, text completions and models."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.event_stream import DONE, EventStreamResponse, encode_event
from bem_fleet.services.gateway.generation import (
    ChoiceDelta,
    complete_choices,
    router_requests,
    stream_choices,
)
from bem_fleet.services.gateway.logprobs import LogprobFormatter
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.request_context import session_of
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bemfleet.mission.v1 import mission_pb2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet import logs, wire
from fleet.access import Role
from fleet.clients import outgoing_metadata

routes = APIRouter(prefix="/v1")
completion_routes = APIRouter(route_class=JsonBodyRoute)
Body = ChatRequest | CompletionRequest
_LIST_TIMEOUT_S = 10.0


@completion_routes.post("/chat/completions")
@requires(Role.USER)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    return await _complete(request, body, "chat.completion", "chatcmpl")


@completion_routes.post("/completions")
@requires(Role.USER)
async def text_completions(request: Request, body: CompletionRequest) -> Response:
    """Continue one or more texts."""
    return await _complete(request, body, "text_completion", "cmpl")


routes.include_router(completion_routes)


@routes.get("/models")
@requires(Role.USER)
async def list_models(request: Request) -> JSONResponse:
    """List the base model and its adapters."""
    return JSONResponse({"object": "list", "data": await _models(request)})


@routes.get("/models/{name}")
@requires(Role.USER)
async def get_model(request: Request, name: str) -> JSONResponse:
    """Describe one model."""
    models = await _models(request)
    for model in models:
        if model["id"] == name:
            return JSONResponse(model)
    served = ", ".join(model["id"] for model in models)
    raise ApiError(
        404,
        f"model: {name!r} does not exist; served: {served}; name one of them",
        code="model_not_found",
        param="model",
    )


async def _models(request: Request) -> list[dict[str, Any]]:
    listed = await state_of(request).openai_mission.contract.ListAdapters(
        mission_pb2.ListAdaptersRequest(), timeout=_LIST_TIMEOUT_S, metadata=outgoing_metadata()
    )
    base = listed.adapters[0].name
    return [
        {
            "id": adapter.name,
            "object": "model",
            "created": adapter.loaded_unix_s,
            "owned_by": "bem-fleet",
            "parent": None if adapter.base else base,
            "version": adapter.version,
            "max_model_len": listed.context_tokens,
        }
        for adapter in listed.adapters
    ]


async def _complete(request: Request, body: Body, kind: str, id_prefix: str) -> Response:
    state, request_id = state_of(request), logs.request_id.get()
    requests = router_requests(body)
    head = {
        "id": f"{id_prefix}-{request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }
    timeout_s = state.settings.request_timeout_s
    stub = state.openai_mission.router.stub(session_of(request.headers, body.user), request_id)
    if body.stream:
        deltas = stream_choices(stub, requests, timeout_s)
        first = await anext(deltas)  # before the response, so that an early error has its status
        streamed = EventStreamResponse(_events(body, head, first, deltas, choices=len(requests)))
        streamed.headers[wire.TRACK] = stub.track
        return streamed
    choices = await complete_choices(request, stub, requests, timeout_s)
    head["system_fingerprint"] = choices[0].output.model_version
    enabled = body.logprob_count is not None
    head["choices"] = [
        _choice(choice, kind, LogprobFormatter(kind, enabled=enabled)) for choice in choices
    ]
    head["usage"] = _usage(choices, prompts=_prompt_count(body))
    return JSONResponse(head, headers={wire.TRACK: stub.track})


def _choice(choice: ChoiceDelta, kind: str, formatter: LogprobFormatter) -> dict[str, Any]:
    shared = {
        "index": choice.index,
        "finish_reason": choice.finish_reason,
        "logprobs": formatter.format(choice.output.logprobs),
    }
    if kind == "text_completion":
        return {**shared, "text": choice.output.text}
    message = {"role": "assistant", "content": choice.output.text, "refusal": None}
    return {**shared, "message": message}


def _prompt_count(body: Body) -> int:
    return len(body.prompt) if isinstance(body, CompletionRequest) else 1


def _usage(choices: Sequence[ChoiceDelta], *, prompts: int) -> dict[str, int]:
    """Return the token counts; a prompt with several choices counts once."""
    choices_per_prompt = max(1, len(choices) // prompts)
    usages = [choice.output.usage for choice in choices]
    prompt = sum(usage.prompt_tokens for usage in usages[::choices_per_prompt])
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _events(
    body: Body,
    head: dict[str, Any],
    first: ChoiceDelta,
    deltas: AsyncGenerator[ChoiceDelta],
    *,
    choices: int,
) -> AsyncGenerator[bytes]:
    """Yield the events of a streamed completion; an error is the last event, without ``[DONE]``."""
    encoder = _ChunkEncoder(body, head, first)
    ended: list[ChoiceDelta] = []
    async with aclosing(deltas):
        try:
            delta = first
            while True:
                events = encoder.encode(delta)
                if delta.finish_reason:
                    ended.append(delta)
                if len(ended) == choices:
                    break
                yield events
                delta = await anext(deltas)
        except grpc.RpcError as err:
            yield encode_event({"error": from_rpc(err).body})
            return
    if body.stream_options and body.stream_options.include_usage:
        ended.sort(key=lambda end: end.index)
        events += encoder.encode_usage(_usage(ended, prompts=_prompt_count(body)))
    yield events + DONE


class _ChunkEncoder:
    """Encodes deltas as the chunks of a streamed completion."""

    def __init__(self, body: Body, head: dict[str, Any], first: ChoiceDelta) -> None:
        self._kind = head["object"]
        self._chat = self._kind == "chat.completion"
        self._logprobs = body.logprob_count is not None
        self._head = {**head, "system_fingerprint": first.output.model_version}
        if self._chat:
            self._head["object"] = "chat.completion.chunk"
        self._formatters: dict[int, LogprobFormatter] = {}

    def encode(self, delta: ChoiceDelta) -> bytes:
        """Return the events of a delta; a chat choice opens with its role."""
        opening = b""
        if delta.index not in self._formatters:
            self._formatters[delta.index] = LogprobFormatter(self._kind, enabled=self._logprobs)
            if self._chat:
                role = {"delta": {"role": "assistant", "content": ""}}
                opening = self._chunk(delta.index, role, None, None)
        text = delta.output.text
        content: dict[str, Any] = {"text": text}
        if self._chat:
            content = {"delta": {"content": text} if text else {}}
        logprobs = self._formatters[delta.index].format(delta.output.logprobs)
        return opening + self._chunk(delta.index, content, delta.finish_reason, logprobs)

    def encode_usage(self, usage: dict[str, int]) -> bytes:
        """Return the event with the token counts."""
        return encode_event({**self._head, "choices": [], "usage": usage})

    def _chunk(
        self, index: int, content: dict[str, Any], finish_reason: str | None, logprobs: Any
    ) -> bytes:
        choice = {"index": index, **content, "finish_reason": finish_reason, "logprobs": logprobs}
        return encode_event({**self._head, "choices": [choice]})
