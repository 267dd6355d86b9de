"""OpenAI's Python client as its README shows it: turns, streams, async, errors, retries."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("clients"), pytest.mark.e2e, pytest.mark.slow]
BASE = "smollm2-135m-instruct"
RIVER: Any = [{"role": "user", "content": "Name a river in France."}]


@pytest.fixture
def asynchronous(fleet: Fleet) -> openai.AsyncOpenAI:
    """The asynchronous client."""
    return openai.AsyncOpenAI(base_url=f"{fleet.http}/v1", api_key="none", max_retries=0)


def test_answers_message_is_sent_back_in_the_next_turn(client: openai.OpenAI) -> None:
    """The message object, and its dictionary, are members of the next request."""
    request: Any = {"model": BASE, "temperature": 0, "max_tokens": 12}
    message = client.chat.completions.create(messages=RIVER, **request).choices[0].message
    follow_up: Any = {"role": "user", "content": "And one in Spain?"}
    answers = [
        client.chat.completions.create(messages=[*RIVER, replayed, follow_up], **request)
        for replayed in (message, message.model_dump(), message.model_dump(exclude_none=True))
    ]

    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert answers[0].usage is not None
    assert answers[0].usage.prompt_tokens > 20


def test_stream_helper_accumulates_the_answer(client: openai.OpenAI) -> None:
    """``chat.completions.stream`` ends with the completion that the unary call gives."""
    # The helper refuses an answer that the limit cut, so this one must end by itself.
    messages = [{"role": "user", "content": "Name the capital of France."}]
    request: Any = {"model": BASE, "messages": messages, "temperature": 0, "max_tokens": 64}
    unary = client.chat.completions.create(**request)
    with client.chat.completions.stream(
        **request, stream_options={"include_usage": True}
    ) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()

    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == unary.choices[0].message.content
    assert final.usage == unary.usage


async def test_async_client_streams_several_answers_at_once(
    asynchronous: openai.AsyncOpenAI,
) -> None:
    """Concurrent streams give each its own text."""

    async def text(prompt: str) -> str:
        stream = await asynchronous.completions.create(
            model=BASE, prompt=prompt, temperature=0, max_tokens=6, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

    prompts = ["One, two, three,", "Monday, Tuesday,", "One, two, three,"]
    async with asynchronous:
        answers = await asyncio.gather(*map(text, prompts))

    assert answers[0] == answers[2] != answers[1]
    assert "four" in answers[0]


def test_stream_that_is_closed_early_frees_the_connection(client: openai.OpenAI) -> None:
    """A client that stops reading can go on."""
    request: Any = {"model": BASE, "messages": RIVER, "max_tokens": 64, "temperature": 0}
    with client.chat.completions.create(**request, stream=True) as stream:
        next(iter(stream))

    assert client.chat.completions.create(**{**request, "max_tokens": 2}).choices


def test_raw_and_streaming_responses_show_headers(client: openai.OpenAI) -> None:
    """The client's raw access finds the request id, which its objects carry too."""
    request: Any = {"model": BASE, "messages": RIVER, "max_tokens": 2, "temperature": 0}
    raw = client.chat.completions.with_raw_response.create(**request)
    with client.chat.completions.with_streaming_response.create(**request) as streamed:
        body = streamed.read()

    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.http_response.json()["object"] == "chat.completion"
    assert b"chat.completion" in body


@pytest.mark.parametrize(
    ("changed", "error", "param"),
    [
        ({"model": "none"}, openai.NotFoundError, "model"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"n": 0}, openai.BadRequestError, "n"),
    ],
)
def test_errors_are_the_clients_own_classes(
    client: openai.OpenAI, changed: Any, error: type[openai.APIStatusError], param: str
) -> None:
    """Class, code and parameter of each error are those that OpenAI's users handle."""
    request: Any = {"model": BASE, "messages": RIVER, "max_tokens": 2, **changed}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)

    assert caught.value.code
    assert caught.value.param in (param, None) if param == "model" else caught.value.param == param
    assert caught.value.request_id


def test_context_overflow_has_openais_code(client: openai.OpenAI) -> None:
    """Libraries shorten the conversation when they read this code."""
    messages: Any = [{"role": "user", "content": "word " * 20_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=BASE, messages=messages, max_tokens=2)

    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length" in caught.value.message


def test_client_retries_an_overloaded_answer(fleet: Fleet) -> None:
    """The client waits as Retry-After says and gets the fleet's answer at its second try."""
    statuses: list[int] = []

    class Overloaded(httpx.HTTPTransport):
        """Answers the first request with the fleet's own form of an overload."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if not statuses:
                statuses.append(429)
                return httpx.Response(429, headers={"Retry-After": "1"}, json={"error": {}})
            response = super().handle_request(request)
            statuses.append(response.status_code)
            return response

    http = httpx.Client(transport=Overloaded())
    with openai.OpenAI(
        base_url=f"{fleet.http}/v1", api_key="none", max_retries=2, http_client=http
    ) as retrying:
        answer = retrying.chat.completions.create(
            model=BASE, messages=RIVER, max_tokens=2, temperature=0
        )

    assert answer.choices[0].message.content
    assert statuses == [429, 200]


def test_timeout_is_the_clients_own_error(fleet: Fleet) -> None:
    """A client's limit ends its call; the fleet serves the next one."""
    with openai.OpenAI(base_url=f"{fleet.http}/v1", api_key="none", max_retries=0) as hasty:
        with pytest.raises(openai.APITimeoutError):
            hasty.with_options(timeout=0.02).chat.completions.create(
                model=BASE, messages=RIVER, max_tokens=256
            )
        assert hasty.models.retrieve(BASE).id == BASE


def test_models_are_listed_in_pages(client: openai.OpenAI) -> None:
    """The page object iterates, and has the fields of OpenAI's models."""
    page = client.models.list()

    assert [model.id for model in page] == [model.id for model in page.data]
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in page)


def test_usage_comes_in_the_last_chunk_only_when_requested(client: openai.OpenAI) -> None:
    """Without the option no chunk has usage; with it the last one has no choices."""
    request: Any = {
        "model": BASE,
        "messages": RIVER,
        "max_tokens": 3,
        "temperature": 0,
        "stream": True,
    }
    plain = list(client.chat.completions.create(**request))
    counted = list(
        client.chat.completions.create(**request, stream_options={"include_usage": True})
    )

    assert all(chunk.usage is None for chunk in plain)
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == 3
    assert len({chunk.id for chunk in counted}) == 1
