"""Unmodified OpenAI client against the local fleet."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("clients"), pytest.mark.e2e, pytest.mark.slow]
BASE = "smollm2-135m-instruct"
PARIS: Any = [{"role": "user", "content": "Name the capital of France."}]
# Longer than the sidecar's hold-back window, so that it is streamed in several deltas.
STORY: Any = [{"role": "user", "content": "Tell me a story about a boat."}]
PASSAGE = (
    "Answer the question from the passage. Reply with JSON only, in the form "
    '{"answer": "<the shortest words of the passage that answer it>"}.\n\n'
    "Passage: The Amazon river rises in the Andes of Peru and flows into the Atlantic Ocean.\n\n"
    "Question: In which ocean does the Amazon end?"
)


def test_chat_answers_with_usage(client: openai.OpenAI) -> None:
    """A chat completion has text, finish reason and token counts."""
    answer = client.chat.completions.create(model=BASE, messages=PARIS, temperature=0)

    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 3
    assert answer.system_fingerprint


def test_stream_carries_the_same_text_and_usage(client: openai.OpenAI) -> None:
    """Stream deltas add up to the unary text; requested usage comes last."""
    request: Any = {"model": BASE, "messages": STORY, "temperature": 0, "max_tokens": 64}
    unary = client.chat.completions.create(**request)
    chunks = list(
        client.chat.completions.create(
            **request,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert len([delta for delta in deltas if delta]) > 3
    assert "".join(deltas) == unary.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == unary.usage


def test_completion_continues_text_and_obeys_stop_and_limit(client: openai.OpenAI) -> None:
    """Completions obey stop sequences and max_tokens."""
    request: dict[str, Any] = {"model": BASE, "prompt": "One, two, three, four,", "temperature": 0}
    limited = client.completions.create(**request, max_tokens=4)
    stopped = client.completions.create(**request, max_tokens=40, stop=["six"])

    assert limited.choices[0].finish_reason == "length"
    assert limited.usage is not None
    assert limited.usage.completion_tokens == 4
    assert "five" in stopped.choices[0].text
    assert "six" not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"


def test_seed_makes_sampling_reproducible(client: openai.OpenAI) -> None:
    """Temperature and top-p with a seed repeat; choices of one request differ."""
    request: dict[str, Any] = {
        "model": BASE,
        "messages": [{"role": "user", "content": "Invent a name for a ship."}],
        "temperature": 1.2,
        "top_p": 0.9,
        "max_tokens": 12,
    }
    texts = [
        client.chat.completions.create(**request, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    several = client.chat.completions.create(**request, seed=1, n=3)

    assert texts[0] == texts[1] != texts[2]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.choices[0].message.content == texts[0]
    assert several.choices[1].message.content == texts[2]


def test_logprobs_are_the_clients_own_objects(client: openai.OpenAI) -> None:
    """Chat and completions report tokens and top alternatives, unary and streamed."""
    request: Any = {"model": BASE, "messages": PARIS, "temperature": 0, "max_tokens": 8}
    unary = client.chat.completions.create(**request, logprobs=True, top_logprobs=2).choices[0]
    chunks = client.chat.completions.create(**request, logprobs=True, top_logprobs=2, stream=True)
    streamed = [
        token
        for chunk in chunks
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    plain = client.completions.create(
        model=BASE, prompt="One, two, three,", temperature=0, max_tokens=4, logprobs=2
    ).choices[0]

    assert unary.logprobs is not None
    content = unary.logprobs.content or []
    assert "".join(token.token for token in content) == unary.message.content
    assert [token.token for token in streamed] == [token.token for token in content]
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in content)
    assert plain.logprobs is not None
    assert "".join(plain.logprobs.tokens or ()) == plain.text
    assert (plain.logprobs.text_offset or [])[:1] == [0]
    assert len(plain.logprobs.top_logprobs or ()) == 4


def test_bias_and_penalties_steer_the_answer(client: openai.OpenAI) -> None:
    """Logit bias forces a token, and penalties change the text, by OpenAI's and vLLM's names."""
    request: dict[str, Any] = {"model": BASE, "prompt": "Row, row, row,", "temperature": 0}
    plain = client.completions.create(**request, max_tokens=16).choices[0]
    forced = [
        client.completions.create(**request, max_tokens=2, logit_bias={token: 100}).choices[0].text
        for token in ("1500", "2500")
    ]
    punished = client.completions.create(
        **request, max_tokens=16, presence_penalty=2, frequency_penalty=2
    )
    repeated = client.completions.create(
        **request, max_tokens=16, extra_body={"repetition_penalty": 1.8, "top_k": 5}
    )

    assert forced[0] != forced[1]
    assert len({plain.text, punished.choices[0].text, repeated.choices[0].text}) == 3


def test_adapter_answers_from_a_passage_in_json(client: openai.OpenAI) -> None:
    """The trained adapter is a model of its own name and answers in its JSON format."""
    listed = {model.id for model in client.models.list()}
    answer = client.chat.completions.create(
        model="passage-qa", messages=[{"role": "user", "content": PASSAGE}], temperature=0
    )
    reply = json.loads(answer.choices[0].message.content or "")

    assert listed == {BASE, "passage-qa", "router", "retrieve", "reason", "formalize", "general"}
    assert client.models.retrieve("passage-qa").id == "passage-qa"
    assert list(reply) == ["answer"]
    assert "Atlantic" in reply["answer"]


def test_unknown_model_raises_the_clients_not_found(client: openai.OpenAI) -> None:
    """Errors have OpenAI's format, so the client raises its own exception classes."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=PARIS)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")

    assert caught.value.code == "model_not_found"
    assert BASE in caught.value.message


def chat(**fields: Any) -> dict[str, Any]:
    """Return a chat request with some fields changed."""
    return {"model": BASE, "messages": PARIS, **fields}


BAD: dict[str, tuple[Any, int, str | None, str]] = {
    "malformed": ("{bad", 400, None, "JSON"),
    "nan temperature": (
        json.dumps(chat(temperature=0.0)).replace("0.0", "NaN"),
        400,
        "temperature",
        "finite",
    ),
    "hot": (chat(temperature=3), 400, "temperature", "2"),
    "unknown field": (chat(colour="red"), 400, "colour", "unknown field"),
    "no messages": (chat(messages=[]), 400, "messages", "at least 1"),
    "too many messages": (chat(messages=PARIS * 257), 400, "messages", "256"),
    "no text": (chat(messages=[{"role": "user", "content": ""}]), 400, "messages", "no message"),
    "no tokens": (chat(max_tokens=0), 400, "max_tokens", "1"),
    "beyond context": (chat(max_tokens=9000), 400, "max_tokens", "8192"),
    "long prompt": (
        chat(messages=[{"role": "user", "content": "word " * 9000}]),
        400,
        "messages",
        "8192",
    ),
    "10 MB": (chat(messages=[{"role": "user", "content": "x" * 10_000_000}]), 413, None, "1048576"),
    "many logprobs": (chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "20"),
    "logprobs of nothing": (chat(top_logprobs=2), 400, None, "logprobs"),
    "foreign token": (chat(logit_bias={"60000": 1}), 400, "logit_bias", "49151"),
    "strong bias": (chat(logit_bias={"5": 200}), 400, "logit_bias", "100"),
    "no repetition": (chat(repetition_penalty=0), 400, "repetition_penalty", "0"),
    "five stops": (chat(stop=list("abcde")), 400, "stop", "4"),
    "surrogate": (
        '{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        400,
        "messages",
        "",
    ),
    "tools": (
        chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        400,
        "tools",
        "template has no tools",
    ),
    "stacked marks": (
        chat(messages=[*PARIS, {"role": "user", "content": "a" + "\u0301" * 9}]),
        400,
        "messages.1.content",
        "combining marks",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_names_field_and_limit(fleet: Fleet, case: str) -> None:
    """Each invalid request gets its 4xx status, with field and limit in the message."""
    body, status, param, part = BAD[case]
    data = body if isinstance(body, str) else json.dumps(body)
    answer = httpx.post(
        f"{fleet.http}/v1/chat/completions",
        content=data,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    error = answer.json()["error"]

    assert answer.status_code == status, error
    assert param is None or str(error["param"]).startswith(param)
    assert part in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_filtered_answer_has_the_clients_finish_reason(client: openai.OpenAI) -> None:
    """A withheld answer is empty with finish reason content_filter, unary and streamed.

    The prompt is mild, so that only the answer can be withheld; a bias to two tokens makes it rude.
    """
    rude: Any = {
        "model": BASE,
        "prompt": "The harbour was quiet that morning, and",
        "temperature": 0,
        "max_tokens": 24,
        "logit_bias": {"275": 100, "2593": 100},  # " f" and "uck"
    }
    unary = client.completions.create(**rude)
    streamed = list(client.completions.create(**rude, stream=True))

    assert unary.choices[0].finish_reason == "content_filter"
    assert unary.choices[0].text == ""
    for choice in (unary.choices[0], streamed[-1].choices[0]):
        (result,) = (choice.model_extra or {})["content_filter_result"].values()
        assert result["side"] == "response"
    assert streamed[-1].choices[0].finish_reason == "content_filter"
    assert "fuck" not in "".join(chunk.choices[0].text for chunk in streamed)
