"""Tools through gateway and router with the official client, on a model whose template has them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router
from tests.support.tool_templates import tool_backbone

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
NOW: Any = {"type": "function", "function": {"name": "now", "description": "The time."}}
ASK: dict[str, Any] = {
    "model": "tiny",
    "messages": HELLO,
    "max_tokens": 300,
    "tools": [WEATHER, NOW],
    "seed": 5,
}
ONE: dict[str, Any] = {**ASK, "tool_choice": "required", "parallel_tool_calls": False}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the model with tools."""
    async with (
        tiny_router(tmp_path, make_backbone=tool_backbone) as (running, _),
        openai_client(running.address) as made,
    ):
        yield made


async def test_a_required_call_has_arguments_of_its_schema(client: openai.AsyncOpenAI) -> None:
    """One call, no text, and OpenAI's reason; so on an adapter."""
    for model in ("tiny", "beta"):
        choice = (await client.chat.completions.create(**{**ONE, "model": model})).choices[0]
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        if call.function.name == "weather":
            assert arguments["city"] in ("Paris", "Oslo")
        else:
            assert (call.function.name, arguments) == ("now", {})


async def test_a_named_tool_is_the_one_that_is_called(client: openai.AsyncOpenAI) -> None:
    """The other tool is no choice."""
    named: Any = {"type": "function", "function": {"name": "weather"}}
    choice = (await client.chat.completions.create(**{**ONE, "tool_choice": named})).choices[0]
    (call,) = choice.message.tool_calls or []

    assert call.type == "function"
    assert call.function.name == "weather"


async def test_streamed_calls_are_the_whole_ones(client: openai.AsyncOpenAI) -> None:
    """Deltas have OpenAI's form: the name with the id first, then pieces of the arguments."""
    whole = (await client.chat.completions.create(**ONE)).choices[0].message.tool_calls or []
    stream = await client.chat.completions.create(**ONE, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    parts = [part for one in choices for part in one.delta.tool_calls or []]
    functions = [part.function for part in parts if part.function]

    assert [part.index for part in parts] == [0] * len(parts)
    assert bool(parts[0].id)
    assert not any(part.id for part in parts[1:])
    assert whole[0].type == "function"
    assert "".join(one.name or "" for one in functions) == whole[0].function.name
    assert "".join(one.arguments or "" for one in functions) == whole[0].function.arguments
    assert choices[-1].finish_reason == "tool_calls"


async def test_a_cut_call_says_length_and_shows_no_mark(client: openai.AsyncOpenAI) -> None:
    """Wherever it is cut, its arguments are a beginning of the whole ones, streamed too."""
    named: Any = {"type": "function", "function": {"name": "weather"}}
    body = {**ONE, "tool_choice": named}
    (whole,) = (await client.chat.completions.create(**body)).choices[0].message.tool_calls or []
    assert whole.type == "function"
    arguments, head = whole.function.arguments, '<tool_call>\n{"name": "weather", "arguments": '
    for limit in (3, len(head) - 2, len(head) + 5, len(head) + len(arguments) + 4):
        cut = {**body, "max_tokens": limit}  # a token is a byte
        choice = (await client.chat.completions.create(**cut)).choices[0]
        stream = await client.chat.completions.create(**cut, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        parts = [part for one in chunks for part in one.delta.tool_calls or []]

        assert choice.finish_reason == chunks[-1].finish_reason == "length"
        assert choice.message.content is None
        assert not any(one.delta.content for one in chunks)
        written = [one.function.arguments for one in choice.message.tool_calls or []]
        expected = arguments[: limit - len(head)]
        assert written == ([expected] if limit > len(head) else [])
        streamed = "".join(part.function.arguments or "" for part in parts if part.function)
        assert streamed == "".join(written)


async def test_parallel_calls_have_places_and_ids_of_their_own(client: openai.AsyncOpenAI) -> None:
    """Several calls of one answer are the same ones whole and streamed."""
    found = 0
    for seed in range(12):
        body = {**ASK, "tool_choice": "required", "seed": seed}
        choice = (await client.chat.completions.create(**body)).choices[0]
        calls = choice.message.tool_calls or []
        if choice.finish_reason == "length" or len(calls) < 2:
            continue
        found += 1
        stream = await client.chat.completions.create(**body, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        parts = [part for one in chunks for part in one.delta.tool_calls or []]
        streamed = ["" for _ in calls]
        for part in parts:
            streamed[part.index] += (part.function and part.function.arguments) or ""

        assert choice.finish_reason == chunks[-1].finish_reason == "tool_calls"
        assert streamed == [one.function.arguments for one in calls if one.type == "function"]
        assert [part.index for part in parts if part.id] == list(range(len(calls)))
        assert len({part.id for part in parts if part.id}) == len({one.id for one in calls})
        assert all(isinstance(json.loads(one), dict) for one in streamed)
        if found == 2:
            return
    assert found


async def test_a_conversation_goes_on_with_results(client: openai.AsyncOpenAI) -> None:
    """The client sends the answer's message back, and a message with the result."""
    message = (await client.chat.completions.create(**ONE)).choices[0].message
    (call,) = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns: Any = [*HELLO, message, result]
    free = {**ASK, "messages": turns, "max_tokens": 20}
    plain = {**free, "tool_choice": "none"}

    auto = (await client.chat.completions.create(**free)).choices[0]
    none = (await client.chat.completions.create(**plain)).choices[0]
    assert auto.finish_reason in ("stop", "length", "tool_calls")
    assert none.message.tool_calls is None


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [], "tool_choice": "required"}, None, "give tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "wind"}}},
            "tool_choice",
            "weather, now",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name", "twice"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "required"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
            "tools",
            "not",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"properties": {"<|im_end|>": {}}},
                        },
                    }
                ]
            },
            "tools.0.parameters",
            "control token",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format", "excludes"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0",
            "tool_call_id",
        ),
    ],
)
async def test_malformed_tools_are_refused_by_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str | None, words: str
) -> None:
    """400 with the path in the caller's own body."""
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        await client.chat.completions.create(**{**ASK, **fields})
    assert caught.value.param == param


async def test_a_template_without_tools_refuses_them(tmp_path: Path) -> None:
    """The first field that needs them is named, as with the packaged model."""
    call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    turns: Any = [{"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO]
    async with tiny_router(tmp_path) as (running, _), openai_client(running.address) as client:
        for fields, param in (
            ({}, "tools"),
            ({"tools": [], "messages": turns}, "messages.0.tool_calls"),
        ):
            with pytest.raises(openai.BadRequestError, match="template has no tools") as caught:
                await client.chat.completions.create(**{**ASK, **fields})
            assert caught.value.param == param
        answer = await client.chat.completions.create(**{**ASK, "tool_choice": "none"})
        assert answer.choices[0].message.tool_calls is None
