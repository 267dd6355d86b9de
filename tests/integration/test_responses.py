"""Responses API: the unmodified OpenAI client against gateway, router and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fleet.testing import RedisServer

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router
from tests.integration.sidecars import CannedRouter, scene

ASK: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_output_tokens": 12}


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[str]:
    """Address of a router with the tiny model."""
    async with tiny_router(tmp_path) as (running, _):
        yield running.address


@pytest.fixture
async def client(router: str, redis_server: RedisServer) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the gateway."""
    async with openai_client(router, redis_url=redis_server.url) as made:
        yield made


async def chat(client: openai.AsyncOpenAI, messages: list[Any]) -> str:
    """Return the answer of the chat route."""
    answer = await client.chat.completions.create(
        model="tiny", temperature=0, max_tokens=12, messages=messages
    )
    return answer.choices[0].message.content or ""


async def test_a_response_continues_the_one_before(client: openai.AsyncOpenAI) -> None:
    """The conversation is the chat's; instructions are each request's own."""
    first = await client.responses.create(**ASK, input="hello", instructions="Be brief.")
    second = await client.responses.create(
        **ASK, input="and now", previous_response_id=first.id, metadata={"a": "b"}
    )
    kept = await client.responses.retrieve(second.id)

    system = {"role": "system", "content": "Be brief."}
    turns: list[Any] = [{"role": "user", "content": "hello"}]
    assert first.output_text == await chat(client, [system, *turns])
    turns.append({"role": "assistant", "content": first.output_text})
    turns.append({"role": "user", "content": "and now"})
    assert second.output_text == await chat(client, turns)
    assert kept.output_text == second.output_text
    assert (kept.previous_response_id, kept.metadata) == (first.id, {"a": "b"})
    assert second.status == "incomplete"
    assert second.usage is not None
    assert second.usage.output_tokens == 12
    items: Any = [*turns[:1], *first.output, turns[2]]
    resent = await client.responses.create(**ASK, input=items)
    assert resent.output_text == second.output_text


async def test_streams_are_the_whole_answer_in_pieces(client: openai.AsyncOpenAI) -> None:
    """The last event has the response, which a later one continues."""
    whole = await client.responses.create(**ASK, input="hello")
    asked = {**ASK, "input": "hello", "top_logprobs": 2}
    events = [one async for one in await client.responses.create(**asked, stream=True)]
    types, final = [one.type for one in events], events[-1].response
    follow_up = await client.responses.create(**ASK, input="b", previous_response_id=final.id)

    assert types[0] == "response.created"
    assert types[-1] == "response.incomplete"
    assert types.count("response.output_text.delta") > 1
    assert final.output_text == whole.output_text
    part: Any = final.output[0]
    assert len(part.content[0].logprobs) == 12
    assert follow_up.previous_response_id == final.id


async def test_what_is_not_kept_cannot_be_continued(
    client: openai.AsyncOpenAI, router: str, redis_server: RedisServer
) -> None:
    """By wish, after its removal, and where a setting keeps none."""
    unkept = await client.responses.create(**ASK, input="a", store=False)
    removed = await client.responses.create(**ASK, input="a")
    await client.responses.delete(removed.id)
    async with openai_client(router, redis_url=redis_server.url, responses_ttl_s=0) as other:
        never = await other.responses.create(**ASK, input="a")

    for gone in (unkept, removed, never):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**ASK, input="b", previous_response_id=gone.id)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(gone.id)


async def test_without_redis_answers_are_given_and_not_kept(
    client: openai.AsyncOpenAI, redis_server: RedisServer
) -> None:
    """An answer that is computed is not lost; it says that it was not kept."""
    redis_server.kill()
    answer = await client.responses.create(**ASK, input="hello")
    dumped = answer.model_dump()

    assert answer.output_text
    assert dumped["store"] is False
    with pytest.raises(openai.InternalServerError):
        await client.responses.create(**ASK, input="b", previous_response_id=answer.id)


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"input": "x" * 3000}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}}, None),
    ],
)
async def test_errors_name_the_caller_s_own_field(
    client: openai.AsyncOpenAI, changed: dict[str, Any], param: str | None
) -> None:
    """Neither messages nor max_tokens."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**{**ASK, "input": "hi", **changed})

    assert caught.value.param == param or (
        param is None and str(caught.value.param).startswith("text.format")
    )
    assert "messages" not in str(caught.value.param)


async def test_withheld_answers_are_incomplete(tmp_path: Path, redis_server: RedisServer) -> None:
    """The reason is that of the sidecar, and what is kept is what left it."""
    async with scene(tmp_path, redis_server) as fleet:
        assert isinstance(fleet.router, CannedRouter)
        fleet.router.pieces = ["Write to jane.doe@harbour.org about it."]
        async with openai_client(fleet.sidecar.address, redis_url=redis_server.url) as client:
            redacted = await client.responses.create(model="m", input="hi")
            async with client.responses.stream(model="m", input="hi") as stream:
                streamed = await stream.get_final_response()
            fleet.router.pieces = ["I will kill you, you worthless idiot. I hate you all."]
            withheld = await client.responses.create(model="m", input="hi")
            kept = await client.responses.retrieve(withheld.id)

    assert redacted.output_text == streamed.output_text == "Write to [EMAIL_ADDRESS] about it."
    assert redacted.status == streamed.status == "completed"
    assert withheld.status == kept.status == "incomplete"
    assert withheld.incomplete_details is not None
    assert withheld.incomplete_details.reason == "content_filter"
    assert withheld.output_text == kept.output_text == ""
