"""The unmodified OpenAI client through the gateway's application to the router's tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router

ASK: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 12}
HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client whose requests go to the application itself."""
    async with tiny_router(tmp_path) as (running, _), openai_client(running.address) as made:
        yield made


async def test_chat_logprobs_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    """The client's own objects hold each token and the likeliest at its place."""
    asked = {**ASK, "messages": HELLO, "logprobs": True, "top_logprobs": 3}
    whole = (await client.chat.completions.create(**asked)).choices[0]
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = [
        token
        async for chunk in stream
        for token in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or ()
    ]

    assert whole.logprobs is not None
    content = whole.logprobs.content or []
    assert content
    assert [token.bytes for token in streamed] == [token.bytes for token in content]
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)
    spelt = bytes(byte for token in content for byte in token.bytes or ())
    assert spelt.decode(errors="replace") == whole.message.content


async def test_completion_logprobs_and_their_absence(client: openai.AsyncOpenAI) -> None:
    """Legacy completions have the older form; without a request for them they are null."""
    plain = (await client.completions.create(**ASK, prompt="hello", logprobs=2)).choices[0]
    none = (await client.completions.create(**ASK, prompt="hello")).choices[0]

    assert plain.logprobs is not None
    assert none.logprobs is None
    assert none.text == plain.text
    lengths = {
        len(values or ())
        for values in (
            plain.logprobs.tokens,
            plain.logprobs.token_logprobs,
            plain.logprobs.top_logprobs,
            plain.logprobs.text_offset,
        )
    }
    assert lengths == {12}
    assert all(len(top) <= 2 for top in plain.logprobs.top_logprobs or ())


async def test_bias_penalties_and_extra_fields(client: openai.AsyncOpenAI) -> None:
    """OpenAI's names as arguments, vLLM's in the extra body."""
    plain = (await client.completions.create(**ASK, prompt="hello")).choices[0].text
    forced = await client.completions.create(**ASK, prompt="hello", logit_bias={"65": 100})
    punished = await client.completions.create(
        **ASK, prompt="hello", presence_penalty=2, frequency_penalty=2
    )
    repeated = await client.completions.create(
        **ASK, prompt="hello", extra_body={"repetition_penalty": 2.0, "top_k": 3}
    )
    texts = [answer.choices[0].text for answer in (forced, punished, repeated)]

    assert texts[0] == texts[0][0] * 12
    assert plain not in texts


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"top_logprobs": 1}, None, "logprobs"),
        ({"logit_bias": {"5000": 1}}, "logit_bias", "token 5000"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "100"),
        ({"extra_body": {"repetition_penalty": 2.5}}, "repetition_penalty", "2"),
        ({"extra_body": {"adapter_from_message": 4}}, "adapter_from_message", "0 to 0"),
    ],
)
async def test_limits_reach_the_client_with_their_field(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str | None, part: str
) -> None:
    """Each is the client's bad request, with the name that it sent."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASK, messages=HELLO, **fields)

    assert caught.value.param == param
    assert part in caught.value.message
