"""OpenAI-compatible routes: chat completions, text completions and models."""

import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.event_stream import DONE, EventStreamResponse, encode_event
from bem_fleet.services.gateway.generation import (
    ChoiceDelta,
    complete_choices,
    router_requests,
    stream_choices,
)
from bem_fleet.services.gateway.logprobs import LogprobFormatter
from bem_fleet.services.gateway.openai_errors import completion_error
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.plan_header import plan_headers
from bem_fleet.services.gateway.request_context import session_of, until_disconnect
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bem_fleet.services.gateway.token_routes import add_prompt_texts
from bem_fleet.services.gateway.tool_calls import ToolCallReader, read_message
from bem_fleet.services.gateway.withheld import (
    Withheld,
    content_filter_headers,
    prompt_filter_results,
)
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
    """List the base model, its adapters and the planner."""
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
    planner = [listed.planner] if listed.HasField("planner") else []
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
        for adapter in (*listed.adapters, *planner)
    ]


def _head(own_id: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": own_id, "object": kind, "created": int(time.time()), "model": model}


async def _complete(request: Request, body: Body, kind: str, id_prefix: str) -> Response:
    state, request_id = state_of(request), logs.request_id.get()
    session = session_of(request.headers, body.user)
    requests = router_requests(body, session)
    head = _head(f"{id_prefix}-{request_id}", kind, body.model)
    timeout_s = state.settings.request_timeout_s
    stub = state.openai_mission.router.stub(session, request_id)
    concurrency = state.settings.choice_concurrency
    try:
        await add_prompt_texts(stub, requests)
        if body.stream:
            deltas = stream_choices(stub, requests, timeout_s, concurrency=concurrency)
            # Before the response, so that an early error has its status.
            first = await until_disconnect(request.receive, anext(deltas))
            events = _events(body, head, first, deltas, choices=len(requests))
            streamed = EventStreamResponse(events)
            streamed.headers[wire.TRACK] = stub.track
            streamed.headers.update(content_filter_headers(_withheld([first])))
            streamed.headers.update(plan_headers([first]))
            return streamed
        choices = await complete_choices(
            request, stub, requests, timeout_s, concurrency=concurrency
        )
    except grpc.RpcError as err:
        raise completion_error(err, body) from err
    head["system_fingerprint"] = _fingerprint(choices)
    enabled = body.logprob_count is not None
    head["choices"] = [
        _choice(choice, kind, LogprobFormatter(kind, enabled=enabled), body) for choice in choices
    ]
    head["usage"] = _usage(choices, body.choices_per_prompt)
    withheld = _withheld(choices)
    if blocked := prompt_filter_results(withheld, body.choices_per_prompt):
        head["prompt_filter_results"] = blocked
    headers = {wire.TRACK: stub.track, **content_filter_headers(withheld), **plan_headers(choices)}
    return JSONResponse(head, headers=headers)


def _withheld(choices: Iterable[ChoiceDelta]) -> list[tuple[int, Withheld | None]]:
    return [(choice.index, choice.withheld) for choice in choices]


def _fingerprint(choices: Iterable[ChoiceDelta]) -> str:
    """Return the model version of the first choice that has one."""
    return next((one for choice in choices if (one := choice.output.model_version)), "")


def _filter_results(choice: ChoiceDelta) -> dict[str, Any]:
    """Return why a choice was withheld, under both of Azure's names; nothing if it was not."""
    if choice.withheld is None:
        return {}
    result = choice.withheld.content_filter_result()
    return {"content_filter_result": result, "content_filter_results": result}


def _has_tools(body: Body) -> bool:
    return isinstance(body, ChatRequest) and bool(body.offered_tools)


def _requires_call(body: Body) -> bool:
    return isinstance(body, ChatRequest) and body.tool_choice not in (None, "none", "auto")


def _choice(
    choice: ChoiceDelta, kind: str, formatter: LogprobFormatter, body: Body
) -> dict[str, Any]:
    shared = {
        "index": choice.index,
        "finish_reason": choice.finish_reason,
        # An empty list would be a text of no tokens, with the log-likelihood 0.
        "logprobs": None if choice.withheld else formatter.format(choice.output.logprobs),
        **_filter_results(choice),
    }
    if kind == "text_completion":
        return {**shared, "text": choice.output.text}
    message = {"role": "assistant", "content": choice.output.text, "refusal": None}
    if _has_tools(body):
        message |= read_message(choice.output.text, required=_requires_call(body))
        if "tool_calls" in message and shared["finish_reason"] == "stop":
            shared["finish_reason"] = "tool_calls"
    return {**shared, "message": message}


def _usage(choices: Iterable[ChoiceDelta], choices_per_prompt: int) -> dict[str, int]:
    """Return the token counts; a prompt with several choices counts once."""
    prompts: dict[int, int] = {}
    completion = 0
    for choice in choices:
        usage = choice.output.usage
        index = choice.index // choices_per_prompt
        prompts[index] = max(prompts.get(index, 0), usage.prompt_tokens)
        completion += usage.completion_tokens
    prompt = sum(prompts.values())
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
    unfinished = choices
    async with aclosing(deltas):
        try:
            delta = first
            while True:
                events = encoder.encode(delta)
                unfinished -= delta.finish_reason is not None
                if not unfinished:
                    break
                yield events
                delta = await anext(deltas)
        except grpc.RpcError as err:
            yield encode_event({"error": completion_error(err, body).body})
            return
    if body.stream_options and body.stream_options.include_usage:
        events += encoder.encode_usage()
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
        self._choices_per_prompt = body.choices_per_prompt
        self._latest: dict[int, ChoiceDelta] = {}
        self._readers: dict[int, ToolCallReader] | None = {} if _has_tools(body) else None
        self._requires_call = _requires_call(body)
        options = body.stream_options
        self._shows_usage = bool(options and options.include_usage)
        self._continuous = bool(options and options.continuous_usage_stats)

    def encode(self, delta: ChoiceDelta) -> bytes:
        """Return the events of a delta; a chat choice opens with its role."""
        opening = b""
        if delta.output.HasField("usage"):
            self._latest[delta.index] = delta
        if delta.index not in self._formatters:
            self._formatters[delta.index] = LogprobFormatter(self._kind, enabled=self._logprobs)
            if self._chat:
                role = {"delta": {"role": "assistant", "content": ""}}
                opening = self._chunk(delta.index, role, None, None)
        if not self._head["system_fingerprint"]:  # several choices: another may have come first
            self._head["system_fingerprint"] = delta.output.model_version
        content, reason = self._content(delta)
        logprobs = self._formatters[delta.index].format(delta.output.logprobs)
        content |= _filter_results(delta)
        return opening + self._chunk(delta.index, content, reason, logprobs)

    def _content(self, delta: ChoiceDelta) -> tuple[dict[str, Any], str | None]:
        """Return the text of a delta, or its tool calls, and why the choice ended."""
        text, reason = delta.output.text, delta.finish_reason
        if not self._chat:
            return {"text": text}, reason
        if self._readers is None:
            return {"delta": {"content": text} if text else {}}, reason
        reader = self._readers.setdefault(delta.index, ToolCallReader(required=self._requires_call))
        parts = reader.read(text, ended=reason is not None)
        return {"delta": parts}, "tool_calls" if reason == "stop" and reader.calls else reason

    def encode_usage(self) -> bytes:
        """Return the event with the token counts of all choices."""
        return encode_event({**self._head, "choices": [], "usage": self._usage()})

    def _usage(self) -> dict[str, int]:
        return _usage(self._latest.values(), self._choices_per_prompt)

    def _chunk(
        self, index: int, content: dict[str, Any], finish_reason: str | None, logprobs: Any
    ) -> bytes:
        choice = {"index": index, **content, "finish_reason": finish_reason, "logprobs": logprobs}
        chunk = {**self._head, "choices": [choice]}
        if self._shows_usage or self._continuous:
            chunk["usage"] = self._usage() if self._continuous else None
        return encode_event(chunk)
