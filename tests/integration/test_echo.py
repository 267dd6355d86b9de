"""Log-likelihoods of given texts over HTTP: the unmodified OpenAI client with ``echo``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from bem.testing import tiny_backbone

from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router

TEXT = "Wörter und 🙂 Zeichen"
IDS = tiny_backbone().tokenizer.encode(TEXT)
ASK: dict[str, Any] = {"model": "tiny", "temperature": 0, "echo": True, "logprobs": 1}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the tiny model."""
    async with tiny_router(tmp_path) as (running, _), openai_client(running.address) as made:
        yield made


def expected() -> list[float]:
    """Return transformers' log-probability of each token of the text but the first."""
    with torch.inference_mode():
        logits = tiny_backbone().model(torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)
    found: list[float] = logits.gather(1, torch.tensor(IDS[1:])[:, None])[:, 0].tolist()
    return found


async def test_texts_and_ids_have_the_log_likelihoods_of_the_model(
    client: openai.AsyncOpenAI,
) -> None:
    """Nothing is generated; a prompt of ids is scored as its text is."""
    for prompt in (TEXT, IDS, [IDS]):
        answer = await client.completions.create(**ASK, prompt=prompt, max_tokens=0)
        (choice,) = answer.choices
        found = choice.logprobs

        assert (choice.text, choice.finish_reason) == (TEXT, "length")
        assert found.token_logprobs[0] is None
        assert found.top_logprobs[0] is None
        assert found.token_logprobs[1:] == pytest.approx(expected(), abs=1e-4)
        assert all(
            name in top
            for name, top in zip(found.tokens[1:], found.top_logprobs[1:], strict=True)
            if not name.startswith("bytes:")
        )
        assert found.text_offset[-1] == len(TEXT) - 1
        assert answer.usage.completion_tokens == 0
        assert answer.usage.prompt_tokens == len(IDS)


async def test_answers_follow_their_prompts_in_streams_too(client: openai.AsyncOpenAI) -> None:
    """Text and log-probabilities of a stream are those of the whole answer.

    Log-probabilities to the rounding of a batch: prompts that arrive in two steps of the batch in
    one request and in one step in the other are summed in another order.
    """
    asked = {**ASK, "prompt": [TEXT, "b"], "max_tokens": 3}
    whole = await client.completions.create(**asked)
    texts, values = ["", ""], [list[Any](), list[Any]()]
    async for chunk in await client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            values[choice.index] += choice.logprobs.token_logprobs

    for choice in whole.choices:
        assert choice.logprobs is not None
        assert texts[choice.index] == choice.text
        assert choice.text.startswith((TEXT, "b")[choice.index])
        found, told = values[choice.index], choice.logprobs.token_logprobs
        assert (found[0], told[0]) == (None, None)
        assert found[1:] == pytest.approx(told[1:], abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "param"),
    [({"echo": False, "max_tokens": 0}, None), ({"model": "router"}, "echo")],
)
async def test_what_cannot_be_meant_is_refused(
    client: openai.AsyncOpenAI, changed: dict[str, Any], param: str | None
) -> None:
    """No token and no echo, and the echo of a plan's prompt."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(**{**ASK, "prompt": TEXT, **changed})

    assert caught.value.param == param
    assert "echo" in caught.value.message
