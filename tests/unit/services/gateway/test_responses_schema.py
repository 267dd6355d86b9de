"""Schema of the Responses API: what becomes of its fields, and what is refused by name."""

from typing import Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.responses_schema import ResponsesRequest, own_field
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

PLAIN: dict[str, Any] = {"model": "m", "input": "hi"}


def parse(**changed: Any) -> ResponsesRequest:
    """Parse a body."""
    return ResponsesRequest.model_validate({**PLAIN, **changed})


def test_answers_are_taken_as_clients_send_them_back() -> None:
    """Texts, parts and the items of an output are turns of one conversation."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
    }
    asked = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    body = parse(
        input=[{"role": "user", "content": asked}, answer, {"role": "user", "content": ""}]
    )

    assert parse().turns == [("user", "hi")]
    assert body.turns == [("user", "ab"), ("assistant", "hello"), ("user", "")]


def test_fields_have_their_place_in_the_chat() -> None:
    """Instructions come first; limits, forms and log-probabilities are the chat's."""
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    body = parse(
        instructions="Be brief.",
        max_output_tokens=7,
        temperature=0,
        text={"format": form, "verbosity": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=3,
        reasoning={"effort": "low"},
        stream=True,
    )
    chat = body.chat([("user", "before"), ("assistant", "yes"), *body.turns])

    roles = [(one.role, one.text) for one in chat.messages]
    assert roles[0] == ("system", "Be brief.")
    assert roles[-1] == ("user", "hi")
    assert (chat.output_limit, chat.logprob_count, chat.temperature) == (7, 3, 0)
    assert chat.response_format is not None
    assert chat.response_format.message() is not None
    assert parse(text={"format": {"type": "text"}}).chat(body.turns).response_format is None
    assert parse().chat(body.turns).logprob_count is None


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_what_is_not_served_is_refused_by_name(changed: dict[str, Any], param: str) -> None:
    """The field and the way out."""
    with pytest.raises(ValidationError) as caught:
        parse(**changed)
    error = from_validation(caught.value.errors()).body

    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
        {"role": "user", "content": [{"type": "input_text"}]},
    ],
)
def test_items_without_text_are_refused(item: dict[str, Any]) -> None:
    """Images and calls would change the answer."""
    with pytest.raises(ValidationError, match="input"):
        parse(input=[item])


def test_errors_of_the_chat_have_this_api_s_names() -> None:
    """A caller never wrote messages."""
    body = parse(input=[{"role": "user", "content": ""}])
    with pytest.raises(RequestValidationError) as caught:
        body.chat(body.turns)

    assert from_validation(caught.value.errors()).body["param"] == "input"
    assert own_field("messages.3.content") == "input"
    assert own_field("max_completion_tokens") == "max_output_tokens"
    assert own_field("response_format.json_schema.schema") == "text.format.schema"
    assert own_field("temperature") == "temperature"
