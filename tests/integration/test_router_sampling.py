"""Sampling over the wire: log-probabilities, bias, penalties, and the start of an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import details_of

from tests.integration.routers import tiny_router

GREEDY = pb.Sampling(temperature=0)
MANY = dict.fromkeys(range(1025), 1.0)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Any]:
    """A running router."""
    async with tiny_router(tmp_path) as (_, opened):
        yield rpc.RouterServiceStub(opened)


def chat(content: str) -> pb.ChatPrompt:
    """A conversation of one message."""
    return pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=content)])


async def text(router: Any, request: pb.GenerateRequest) -> str:
    """Return the complete text."""
    return "".join([answer.text async for answer in router.Generate(request)])


async def test_logprobs_come_with_the_text_they_belong_to(router: Any) -> None:
    """Each token has its own log-probability and those of the most probable tokens."""
    sampling = pb.Sampling(temperature=0, logprobs=2)
    request = pb.GenerateRequest(prompt="hello", sampling=sampling, max_tokens=12)
    answers = [answer async for answer in router.Generate(request)]
    whole = await router.Complete(pb.CompleteRequest(request=request))
    streamed = [one for answer in answers for one in answer.logprobs]
    spelt = b""
    for said, answer in enumerate(answers):
        spelt += b"".join(one.chosen.token for one in answer.logprobs)
        out = "".join(one.text for one in answers[: said + 1])
        assert len(spelt.decode(errors="replace")) <= len(out)

    assert list(whole.logprobs) == streamed
    assert len(streamed) == whole.usage.completion_tokens
    assert all(len(one.top) == 2 and one.top[0].id == one.chosen.id for one in streamed)
    assert all(one.chosen.logprob <= 0 for one in streamed)


async def test_bias_and_penalties_change_the_answer(router: Any) -> None:
    """A banned token never comes; penalties make another text; neutral values change nothing."""
    first = pb.GenerateRequest(prompt="hello", sampling=GREEDY, max_tokens=20)
    plain = await text(router, first)
    neutral = pb.Sampling(temperature=0, repetition_penalty=1, presence_penalty=0)
    reported = pb.GenerateRequest(
        prompt="hello", sampling=pb.Sampling(temperature=0, logprobs=0), max_tokens=1
    )
    token = (await router.Complete(pb.CompleteRequest(request=reported))).logprobs[0].chosen.id
    first.sampling.CopyFrom(neutral)
    assert await text(router, first) == plain
    for changed in (
        pb.Sampling(temperature=0, logit_bias={token: -100}),
        pb.Sampling(temperature=0, repetition_penalty=2),
        pb.Sampling(temperature=0, presence_penalty=2, frequency_penalty=2),
    ):
        first.sampling.CopyFrom(changed)
        assert await text(router, first) != plain


async def test_adapter_can_begin_at_a_message(router: Any) -> None:
    """Earlier messages run with the base model; the output differs from both."""
    turns = pb.ChatPrompt(
        messages=[
            pb.ChatMessage(role=role, content=content)
            for role, content in (("user", "hi"), ("assistant", "yes?"), ("user", "go on"))
        ]
    )
    said = [
        await text(
            router,
            pb.GenerateRequest(
                model=model, chat=turns, sampling=GREEDY, max_tokens=20, adapter_from_message=begin
            ),
        )
        for model, begin in (("", 0), ("", 2), ("alpha", 0), ("alpha", 2))
    ]

    assert said[0] == said[1]
    assert len(set(said)) == 3


WRONG = {
    "no repetition": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(repetition_penalty=0)),
        "sampling.repetition_penalty",
        "above 0",
    ),
    "foreign token": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(logit_bias={5000: 1})),
        "sampling.logit_bias",
        "token 5000; the model has 0 to",
    ),
    "strong bias": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(logit_bias={5: 101})),
        "sampling.logit_bias",
        "[-100, 100]",
    ),
    "many biases": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(logit_bias=MANY)),
        "sampling.logit_bias",
        "at most 1024",
    ),
    "many logprobs": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(logprobs=21)),
        "sampling.logprobs",
        "[0, 20]",
    ),
    "late adapter": (
        pb.GenerateRequest(chat=chat("x"), adapter_from_message=1),
        "adapter_from_message",
        "0 to 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_breaks_a_limit_is_named(router: Any, case: str) -> None:
    """INVALID_ARGUMENT with the field and the limit."""
    request, field, part = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        await router.Complete(pb.CompleteRequest(request=request))
    found = details_of(caught.value)

    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.field == field
    assert part in found.message
