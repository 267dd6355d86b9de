"""LiteLLM's client against the fleet: completion, streams, errors and the router.

It runs in the environment of ``requirements/clients.lock``. ``FLEET_URL`` is the base URL of the
gateway.
"""

import os
from typing import Any

import litellm
import pytest

MODEL = "openai/smollm2-135m-instruct"
FLEET: dict[str, Any] = {
    "model": MODEL,
    "api_base": f"{os.environ['FLEET_URL']}/v1",
    "api_key": os.environ.get("FLEET_KEY") or "none",
    "temperature": 0,
    "num_retries": 0,
}
RIVER: Any = [{"role": "user", "content": "Name a river in France."}]


def test_answers_message_is_the_history_of_the_next_turn() -> None:
    """The message object and its dictionary are both accepted in the second turn."""
    first = litellm.completion(**FLEET, messages=RIVER, max_tokens=16)
    message = first.choices[0].message
    follow_up = {"role": "user", "content": "And one in Spain?"}
    for replayed in (message, message.model_dump()):
        second = litellm.completion(**FLEET, messages=[*RIVER, replayed, follow_up], max_tokens=8)
        assert second.choices[0].message.content

    assert first.usage.completion_tokens > 0
    assert first.choices[0].finish_reason in ("stop", "length")


def test_stream_is_rebuilt_to_the_answer() -> None:
    """LiteLLM's own builder makes the unary answer out of the chunks, usage included."""
    unary = litellm.completion(**FLEET, messages=RIVER, max_tokens=12)
    chunks = list(
        litellm.completion(
            **FLEET,
            messages=RIVER,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    built: Any = litellm.stream_chunk_builder(chunks, messages=RIVER)

    assert built.choices[0].message.content == unary.choices[0].message.content
    assert built.usage.completion_tokens == unary.usage.completion_tokens


@pytest.mark.asyncio
async def test_async_completion_answers() -> None:
    """The asynchronous interface gives the same text."""
    answer = await litellm.acompletion(**FLEET, messages=RIVER, max_tokens=12)
    unary = litellm.completion(**FLEET, messages=RIVER, max_tokens=12)

    assert answer.choices[0].message.content == unary.choices[0].message.content


def test_text_completion_and_logprobs() -> None:
    """Text completions and log-probabilities keep OpenAI's form."""
    completed = litellm.text_completion(**FLEET, prompt="One, two, three,", max_tokens=4)
    answer = litellm.completion(
        **FLEET, messages=RIVER, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content

    assert "four" in completed.choices[0].text
    assert [len(token.top_logprobs) for token in content] == [2, 2, 2]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"model": "openai/none"}, litellm.NotFoundError),
        ({"temperature": 9}, litellm.BadRequestError),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            litellm.ContextWindowExceededError,
        ),
    ],
)
def test_errors_are_litellms_own_classes(changed: Any, error: type[Exception]) -> None:
    """Its classes follow from status, code and words of the error."""
    with pytest.raises(error):
        litellm.completion(**{**FLEET, "messages": RIVER, "max_tokens": 4, **changed})


def test_router_balances_and_answers() -> None:
    """LiteLLM's proxy router takes the fleet as a deployment."""
    parameters = {key: value for key, value in FLEET.items() if key != "num_retries"}
    router = litellm.Router(model_list=[{"model_name": "small", "litellm_params": parameters}])
    answer: Any = router.completion(model="small", messages=RIVER, max_tokens=4)

    assert answer.choices[0].message.content
