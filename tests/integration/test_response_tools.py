"""Function tools of the Responses API: the unmodified OpenAI client against gateway and router."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fleet.testing import RedisServer

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router
from tests.integration.test_tool_calls import SCHEMA
from tests.support.tool_templates import tool_backbone

WEATHER: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
NOW: Any = {"type": "function", "name": "now", "description": "The time."}
ASK: dict[str, Any] = {
    "model": "tiny",
    "input": "hello",
    "temperature": 0,
    "max_output_tokens": 300,
    "tools": [WEATHER, NOW],
    "tool_choice": {"type": "function", "name": "weather"},
    "parallel_tool_calls": False,
}


@pytest.fixture
async def client(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the model with tools."""
    async with (
        tiny_router(tmp_path, make_backbone=tool_backbone) as (running, _),
        openai_client(running.address, redis_url=redis_server.url) as made,
    ):
        yield made


async def test_a_call_is_an_item_of_the_response(client: openai.AsyncOpenAI) -> None:
    """Its arguments have the schema; the response states the tools that were offered."""
    response = await client.responses.create(**ASK)
    (call,) = response.output

    assert call.type == "function_call"
    assert (call.name, call.status, response.status) == ("weather", "completed", "completed")
    assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
    assert [tool.type for tool in response.tools] == ["function", "function"]
    assert response.parallel_tool_calls is False
    assert response.output_text == ""


async def test_streamed_calls_are_the_whole_ones(client: openai.AsyncOpenAI) -> None:
    """The client's own accumulator gives the response, and pieces join to the arguments."""
    (whole,) = (await client.responses.create(**ASK)).output
    assert whole.type == "function_call"
    async with client.responses.stream(**ASK) as stream:
        events: list[Any] = [event async for event in stream]
        (accumulated,) = (await stream.get_final_response()).output
    kinds = [event.type for event in events]
    pieces = [
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    ]
    done = next(e for e in events if e.type == "response.function_call_arguments.done")
    added = next(e for e in events if e.type == "response.output_item.added")

    assert accumulated.type == "function_call"
    assert (accumulated.name, accumulated.arguments) == (whole.name, whole.arguments)
    assert "".join(pieces) == done.arguments == whole.arguments
    assert (added.item.name, added.item.arguments, added.item.status) == (
        "weather",
        "",
        "in_progress",
    )
    assert done.item_id == added.item.id == accumulated.id
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-2:] == ["response.output_item.done", "response.completed"]
    assert "response.content_part.added" not in kinds
    raw = [event async for event in await client.responses.create(**ASK, stream=True)]
    assert [one.sequence_number for one in raw] == list(range(len(raw)))


async def test_outputs_continue_the_conversation(client: openai.AsyncOpenAI) -> None:
    """By the previous response, and by the items that the client sends back: the same prompt."""
    first = await client.responses.create(**ASK)
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    goes_on = {**ASK, "tool_choice": "none", "max_output_tokens": 12}
    by_id = await client.responses.create(
        **{**goes_on, "input": [output]}, previous_response_id=first.id
    )
    items: Any = [{"role": "user", "content": "hello"}, *first.output, output]
    resent = await client.responses.create(**{**goes_on, "input": items})
    parts = {**output, "output": [{"type": "input_text", "text": "sunny"}]}
    third = await client.responses.create(
        **{**goes_on, "input": [parts]}, previous_response_id=first.id
    )
    chat = await client.chat.completions.create(
        model="tiny",
        temperature=0,
        max_tokens=12,
        tool_choice="none",
        tools=[{"type": "function", "function": {"name": "now"}}],
        messages=[
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"},
        ],
    )

    assert by_id.output_text
    assert by_id.output_text == resent.output_text == third.output_text
    assert by_id.output_text == chat.choices[0].message.content


@pytest.mark.parametrize(
    ("changed", "param", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "function"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name", "pattern"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name", "twice"),
        ({"tools": None, "tool_choice": "required"}, None, "give tools"),
        ({"tool_choice": {"type": "function", "name": "wind"}}, "tool_choice", "weather, now"),
        (
            {"input": [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]},
            "input.0.call_id",
            "call_1",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    client: openai.AsyncOpenAI, changed: dict[str, Any], param: str | None, words: str
) -> None:
    """The field in this API's own words, and what is taken."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**{**ASK, **changed})

    assert words in str(caught.value)
    if param:
        assert caught.value.param == param
