"""Structured output through gateway and router: the official client, vLLM's fields, and gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import StatusCode, aio
from pydantic import BaseModel, ConfigDict, Field

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router

HELLO: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"model": "alpha", "messages": HELLO, "max_tokens": 300, "seed": 3}


class Step(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["add", "drop"]
    amount: int = Field(ge=0, le=99)


class Answer(BaseModel):
    """Answer with nested parts, which pydantic writes as definitions."""

    model_config = ConfigDict(extra="forbid")
    steps: list[Step] = Field(min_length=1, max_length=2)
    final: bool


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[tuple[str, aio.Channel]]:
    """Address of a router with the tiny model, and a channel to it."""
    async with tiny_router(tmp_path) as (running, channel):
        yield running.address, channel


@pytest.fixture
async def client(router: tuple[str, aio.Channel]) -> AsyncIterator[openai.AsyncOpenAI]:
    """The unmodified client."""
    async with openai_client(router[0]) as made:
        yield made


async def test_parse_returns_the_callers_own_type(client: openai.AsyncOpenAI) -> None:
    """The client's helper reads the answer of a model with random weights, on an adapter too."""
    for model in ("tiny", "alpha"):
        parsed = await client.chat.completions.parse(
            **{**ASK, "model": model}, response_format=Answer
        )
        choice = parsed.choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Answer)
        assert 1 <= len(choice.message.parsed.steps) <= 2


async def test_a_cut_answer_says_length(client: openai.AsyncOpenAI) -> None:
    """The client raises its own error of an unfinished answer."""
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(**{**ASK, "max_tokens": 3}, response_format=Answer)


async def test_a_streamed_answer_is_the_whole_one(client: openai.AsyncOpenAI) -> None:
    """Streamed and whole answers of one seed are the same."""
    schema = {"name": "answer", "schema": Answer.model_json_schema(), "strict": True}
    asked = {**ASK, "response_format": {"type": "json_schema", "json_schema": schema}}
    whole = (await client.chat.completions.create(**asked)).choices[0].message.content
    stream = await client.chat.completions.create(**asked, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(pieces) == whole
    Answer.model_validate_json(whole or "")


async def test_forms_of_vllm_on_both_routes(client: openai.AsyncOpenAI) -> None:
    """Regular expressions, grammars and choices, several choices at once."""
    regex = {"structured_outputs": {"regex": "[ab]{3}"}}
    texts = await client.completions.create(
        model="tiny", prompt="hello", n=2, max_tokens=20, extra_body=regex
    )
    choice = {"structured_outputs": {"choice": ["yes", "no"]}}
    chosen = await client.chat.completions.create(**ASK, extra_body=choice)

    assert all(re.fullmatch("[ab]{3}", one.text) for one in texts.choices)
    assert {one.finish_reason for one in texts.choices} == {"stop"}
    assert chosen.choices[0].message.content in ("yes", "no")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"uniqueItems": True}},
                }
            },
            "response_format.json_schema.schema",
            "uniqueItems",
        ),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed"),
        ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json", "not"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos", "excludes"),
    ],
)
async def test_what_is_not_enforced_is_refused_by_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str, words: str
) -> None:
    """400 with the path in the caller's own body, streamed or whole."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            await client.chat.completions.create(**ASK, stream=stream, extra_body=fields)
        assert caught.value.param == param


async def test_forms_over_grpc(router: tuple[str, aio.Channel]) -> None:
    """The proto's field, streamed and complete, and its error."""
    stub = rpc.RouterServiceStub(router[1])
    request = pb.GenerateRequest(
        model="beta",
        prompt="hello",
        max_tokens=200,
        structured_output=pb.StructuredOutput(json_schema='{"enum": [{"a": 1}, {"a": 2}]}'),
    )
    complete = await stub.Complete(pb.CompleteRequest(request=request))
    pieces = [response.text async for response in stub.Generate(request)]
    assert json.loads(complete.text)["a"] in (1, 2)
    assert json.loads("".join(pieces))["a"] in (1, 2)
    assert complete.finish_reason == pb.FINISH_REASON_STOP

    request.structured_output.json_schema = '{"contains": {}}'
    with pytest.raises(aio.AioRpcError, match="contains") as caught:
        await stub.Complete(pb.CompleteRequest(request=request))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
