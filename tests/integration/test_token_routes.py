"""Token ids through gateway and router: vLLM's two routes, and prompts of token ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bem.testing import tiny_backbone
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import StatusCode, aio

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router

TOKENIZER = tiny_backbone().tokenizer
TEXT = "Wörter, 🙂 <|im_end|>"
TURNS = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[tuple[str, aio.Channel]]:
    """Address of a router with the tiny model, and a channel to it."""
    async with tiny_router(tmp_path) as (running, channel):
        yield running.address, channel


@pytest.fixture
async def http(router: tuple[str, aio.Channel]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's application."""
    app = make_app(GatewaySettings(missions={"router": router[0]}))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield client


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer."""
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_texts_become_ids_and_ids_texts(http: httpx.AsyncClient) -> None:
    """A spelled control token is text, with a token for each letter."""
    asked = {"model": "tiny", "prompt": TEXT, "return_token_strs": True}
    answer = await post(http, "/tokenize", asked)
    back = await post(http, "/detokenize", {"model": "tiny", "tokens": answer["tokens"]})

    assert answer["tokens"] == TOKENIZER.encode(TEXT, split_special_tokens=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    assert back == {"prompt": TEXT}


async def test_conversations_become_ids(http: httpx.AsyncClient) -> None:
    """The template is the chat route's, with and without an opened turn."""
    opened = await post(http, "/tokenize", {"model": "alpha", "messages": TURNS})
    closed = await post(http, "/tokenize", {"messages": TURNS, "add_generation_prompt": False})

    for answer, opens in ((opened, True), (closed, False)):
        wanted = TOKENIZER.apply_chat_template(
            TURNS, add_generation_prompt=opens, return_dict=False
        )
        assert answer["tokens"] == wanted
        assert answer["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/tokenize", {"model": "tiny"}, None, "not both"),
        ("/tokenize", {"prompt": "x", "messages": TURNS}, None, "not both"),
        ("/tokenize", {"prompt": "x", "add_special_tokens": False}, None, "add_special_tokens"),
        ("/tokenize", {"messages": [{"role": "critic"}]}, "messages.0.role", "user"),
        ("/tokenize", {"model": "other", "prompt": "x"}, None, "not loaded"),
        ("/detokenize", {"tokens": [258]}, "tokens", "0 to 257"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0", "greater"),
        ("/v1/completions", {"model": "tiny", "prompt": [258]}, "prompt", "0 to 257"),
        ("/v1/completions", {"model": "tiny", "prompt": [[1], []]}, None, "at least 1"),
    ],
)
async def test_what_is_malformed_is_named(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], param: str | None, words: str
) -> None:
    """The field and the limit."""
    error = (await http.post(path, json=body)).json()["error"]

    assert words in error["message"]
    if param is not None:
        assert error["param"] == param


async def test_a_prompt_of_ids_is_that_of_its_text(router: tuple[str, aio.Channel]) -> None:
    """One prompt or several, with usage, and streamed."""
    ids = TOKENIZER.encode("hello")
    asked: dict[str, Any] = {"model": "alpha", "temperature": 0, "max_tokens": 8}
    async with openai_client(router[0]) as client:
        text = await client.completions.create(**asked, prompt="hello")
        one = await client.completions.create(**asked, prompt=ids)
        many = await client.completions.create(**asked, prompt=[ids, ids[:2]])
        stream = await client.completions.create(**asked, prompt=ids, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])

    assert one.choices[0].text == text.choices[0].text == many.choices[0].text == streamed
    assert one.usage == text.usage
    assert many.usage is not None
    assert many.usage.prompt_tokens == 7


async def test_ids_without_their_text_are_refused(router: tuple[str, aio.Channel]) -> None:
    """What runs is what the sidecar read: another text beside the ids is no way around it."""
    stub = rpc.RouterServiceStub(router[1])
    ids = TOKENIZER.encode("hello")
    good = pb.GenerateRequest(prompt="hello", prompt_ids=ids, max_tokens=2)
    assert (await stub.Complete(pb.CompleteRequest(request=good))).usage.prompt_tokens == 5

    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="x")])
    for request in (
        pb.GenerateRequest(prompt="harmless", prompt_ids=ids),
        pb.GenerateRequest(prompt_ids=ids),
        pb.GenerateRequest(prompt_ids=ids, chat=chat),
    ):
        with pytest.raises(aio.AioRpcError, match="prompt") as caught:
            await stub.Complete(pb.CompleteRequest(request=request))
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT


async def test_a_prompt_of_any_length_is_counted(http: httpx.AsyncClient) -> None:
    """Longer than the context too: the caller wants to know."""
    answer = await post(http, "/tokenize", {"prompt": "x" * 2000})

    assert answer["count"] == 2000
