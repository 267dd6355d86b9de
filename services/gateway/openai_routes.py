"""OpenAI's routes: chat and plain completions, and the models."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from bem_fleet.services.gateway.body_route import BodyRoute
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.event_stream import DONE, EventStream
from bem_fleet.services.gateway.generation import Part, parts, whole, wire_requests
from bem_fleet.services.gateway.logprobs import LogprobWriter
from bem_fleet.services.gateway.schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.tracks import session_of
from bemfleet.mission.v1 import mission_pb2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet import logs
from fleet.clients import outgoing_metadata

routes = APIRouter(prefix="/v1")
answers = APIRouter(route_class=BodyRoute)
Body = ChatRequest | CompletionRequest
TRACK = "x-bem-track"


@answers.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    return await _answer(request, body, "chat.completion", "chatcmpl")


@answers.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue one or more texts."""
    return await _answer(request, body, "text_completion", "cmpl")


routes.include_router(answers)


@routes.get("/models")
async def models(request: Request) -> JSONResponse:
    """List the base model and its adapters."""
    return JSONResponse({"object": "list", "data": await _models(request)})


@routes.get("/models/{name}")
async def model(request: Request, name: str) -> JSONResponse:
    """Describe one model."""
    for entry in await _models(request):
        if entry["id"] == name:
            return JSONResponse(entry)
    raise ApiError(404, f"the model {name!r} does not exist", code="model_not_found", param="model")


async def _models(request: Request) -> list[dict[str, Any]]:
    listed = await request.app.state.contract.ListAdapters(
        mission_pb2.ListAdaptersRequest(), timeout=10, metadata=outgoing_metadata()
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


async def _answer(request: Request, body: Body, kind: str, prefix: str) -> Response:
    asked = wire_requests(body)
    head = {
        "id": f"{prefix}-{logs.request_id.get()}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }
    limit = request.app.state.settings.request_timeout_s
    session = session_of(request.headers, body.user)
    router = request.app.state.tracks.split(session, logs.request_id.get())
    if body.stream:
        streamed = await _stream(body, head, parts(router, asked, limit), choices=len(asked))
        streamed.headers[TRACK] = router.track
        return streamed
    choices = await whole(request, router, asked, limit)
    head["system_fingerprint"] = choices[0].version
    asks = body.reported is not None
    head["choices"] = [_choice(choice, kind, asks=asks) for choice in choices]
    head["usage"] = _usage(choices, prompts=_prompts(body))
    return JSONResponse(head, headers={TRACK: router.track})


def _choice(part: Part, kind: str, *, asks: bool) -> dict[str, Any]:
    logprobs = LogprobWriter(kind, asks=asks).write(part.logprobs)
    shared = {"index": part.index, "finish_reason": part.finish, "logprobs": logprobs}
    if kind == "text_completion":
        return {**shared, "text": part.text}
    message = {"role": "assistant", "content": part.text, "refusal": None}
    return {**shared, "message": message}


def _prompts(body: Body) -> int:
    return len(body.prompt) if isinstance(body, CompletionRequest) else 1


def _usage(choices: list[Part], *, prompts: int) -> dict[str, int]:
    """Sum up; a prompt with several choices counts once."""
    each = max(1, len(choices) // prompts)
    prompt = sum(choice.prompt_tokens for choice in choices[::each])
    completion = sum(choice.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _stream(
    body: Body, head: dict[str, Any], source: AsyncGenerator[Part], *, choices: int
) -> Response:
    """Start the stream with its first part, so that an early error still has its HTTP status."""
    first = await anext(source)
    return EventStream(_events(body, head, first, source, choices=choices))


async def _events(
    body: Body,
    head: dict[str, Any],
    first: Part,
    stream: AsyncGenerator[Part],
    *,
    choices: int,
) -> AsyncGenerator[bytes]:
    kind = head["object"]
    chat = kind == "chat.completion"
    if chat:
        head = {**head, "object": "chat.completion.chunk"}
    head["system_fingerprint"] = first.version
    writers: dict[int, LogprobWriter] = {}
    ended: list[Part] = []
    async with aclosing(stream):
        try:
            part = first
            while True:
                opening = b""
                if part.index not in writers:
                    writers[part.index] = LogprobWriter(kind, asks=body.reported is not None)
                    if chat:
                        role = {"delta": {"role": "assistant", "content": ""}}
                        opening = _piece(head, part.index, role, None, None)
                logprobs = writers[part.index].write(part.logprobs)
                events = opening + _delta(head, part, logprobs, chat=chat)
                if part.finish:
                    ended.append(part)
                if len(ended) == choices:
                    break
                yield events
                part = await anext(stream)
        except grpc.RpcError as err:
            yield _event({"error": from_rpc(err).body})
            return
    if body.stream_options and body.stream_options.include_usage:
        ended.sort(key=lambda end: end.index)
        usage = _usage(ended, prompts=_prompts(body))
        events += _event({**head, "choices": [], "usage": usage})
    yield events + DONE


def _delta(head: dict[str, Any], part: Part, logprobs: Any, *, chat: bool) -> bytes:
    said: dict[str, Any] = {"text": part.text}
    if chat:
        said = {"delta": {"content": part.text} if part.text else {}}
    return _piece(head, part.index, said, part.finish, logprobs)


def _piece(
    head: dict[str, Any], index: int, said: dict[str, Any], finish: str | None, logprobs: Any
) -> bytes:
    choice = {"index": index, **said, "finish_reason": finish, "logprobs": logprobs}
    return _event({**head, "choices": [choice]})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
