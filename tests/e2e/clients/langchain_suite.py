"""LangChain's published integration tests of chat models, for ChatOpenAI against the fleet.

They run in the environment of ``requirements/clients.lock``. ``FLEET_URL`` is the base URL of the
gateway.
"""

import os
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

MODEL = "smollm2-135m-instruct"
FLEET: dict[str, Any] = {
    "base_url": f"{os.environ['FLEET_URL']}/v1",
    "api_key": os.environ.get("FLEET_KEY") or "none",
    "model": MODEL,
    "temperature": 0,
    "max_retries": 1,
}


class TestFleet(ChatModelIntegrationTests):
    """All tests of the suite but those of tools, structured output and media."""

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        """Client class under test."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Arguments of the client."""
        return {**FLEET, "max_tokens": 32, "stream_usage": True}

    @property
    def has_tool_calling(self) -> bool:
        """Whether tools are served: a later release."""
        return False

    @property
    def has_structured_output(self) -> bool:
        """Whether JSON schemas are served: a later release."""
        return False

    @property
    def supports_json_mode(self) -> bool:
        """Whether JSON mode is served: a later release."""
        return False


def test_answers_message_is_the_history_of_the_next_turn() -> None:
    """The message that the client returned is sent back in the second turn."""
    chat = ChatOpenAI(**FLEET, max_tokens=16)
    history: list[Any] = [SystemMessage("Be brief."), HumanMessage("Name a river in France.")]
    first = chat.invoke(history)
    second = chat.invoke([*history, first, HumanMessage("And one in Spain?")])

    assert isinstance(first, AIMessage)
    assert first.usage_metadata is not None
    assert first.usage_metadata["output_tokens"] > 0
    assert second.content
    assert second.response_metadata["model_name"] == MODEL


def test_stream_reports_usage_and_finish_reason() -> None:
    """Chunks add up to one message with token counts."""
    chat = ChatOpenAI(**FLEET, max_tokens=8, stream_usage=True)
    whole: Any = None
    for chunk in chat.stream("Count to twenty."):
        whole = chunk if whole is None else whole + chunk

    assert whole.usage_metadata["output_tokens"] == 8
    assert whole.response_metadata["finish_reason"] == "length"


def test_logprobs_reach_the_response_metadata() -> None:
    """Tokens and alternatives are where LangChain puts OpenAI's."""
    chat = ChatOpenAI(**FLEET, max_tokens=4).bind(logprobs=True, top_logprobs=2)
    content = chat.invoke("Name a colour.").response_metadata["logprobs"]["content"]

    assert [len(token["top_logprobs"]) for token in content] == [2] * len(content)
    assert content


def test_completion_client_generates_a_batch() -> None:
    """LangChain's client of text completions sends all prompts in one request."""
    results = OpenAI(**FLEET, max_tokens=6).generate(["One, two, three,", "Monday, Tuesday,"])

    assert [bool(generations[0].text) for generations in results.generations] == [True, True]
