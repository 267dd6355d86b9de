"""Schema of the Responses API: what becomes of its fields, and what is refused by name."""

from typing import Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.responses_schema import ResponsesRequest, own_field
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

HI = {"role": "user", "content": "hi"}
PLAIN: dict[str, Any] = {"model": "m", "input": "hi"}


def parse(**changed: Any) -> ResponsesRequest:
    """Parse a body."""
    return ResponsesRequest.model_validate({**PLAIN, **changed})


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
    before = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "yes"}]
    chat = body.chat([*before, HI])

    roles = [(one.role, one.text) for one in chat.messages]
    assert roles[0] == ("system", "Be brief.")
    assert roles[-1] == ("user", "hi")
    assert (chat.output_limit, chat.logprob_count, chat.temperature) == (7, 3, 0)
    assert chat.response_format is not None
    assert chat.response_format.message() is not None
    assert parse(text={"format": {"type": "text"}}).chat([HI]).response_format is None
    assert parse().chat([HI]).logprob_count is None


@pytest.mark.parametrize(
    ("changed", "param"),
    [
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
        {"type": "function_call", "call_id": "c", "name": "f"},
        {"type": "reasoning", "summary": []},
        {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
        {"role": "user", "content": [{"type": "input_text"}]},
    ],
)
def test_items_without_text_are_refused(item: dict[str, Any]) -> None:
    """Images and calls in part would change the answer."""
    with pytest.raises(ValidationError, match="input"):
        parse(input=[item])


def test_errors_of_the_chat_have_this_api_s_names() -> None:
    """A caller never wrote messages."""
    with pytest.raises(RequestValidationError) as caught:
        parse().chat([{"role": "user", "content": ""}])

    assert from_validation(caught.value.errors()).body["param"] == "input"
    assert own_field("messages.3.content") == "input"
    assert own_field("max_completion_tokens") == "max_output_tokens"
    assert own_field("response_format.json_schema.schema") == "text.format.schema"
    assert own_field("temperature") == "temperature"
    assert own_field("tools.0.function.parameters") == "tools.0.parameters"


def test_functions_are_the_chats_tools() -> None:
    """They are flat here and nested there; a choice without functions is refused."""
    tool = {"type": "function", "name": "now", "description": "The time.", "parameters": {}}
    chosen = parse(tools=[tool], tool_choice={"type": "function", "name": "now"}).chat([HI])
    assert [one.function.name for one in chosen.offered_tools] == ["now"]
    assert chosen.tool_choice is not None
    none = parse(tools=[tool], tool_choice="none")
    assert not none.offers_tools
    assert none.chat([HI]).offered_tools == []
    assert parse(tool_choice="auto").chat([HI]).offered_tools == []
    with pytest.raises(RequestValidationError, match="give tools"):
        parse(tool_choice="required").chat([HI])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"input": [HI, {"type": "web_search_call"}]},
            (
                "input.1: unknown type of input item; it is message, function_call or "
                "function_call_output"
            ),
        ),
        ({"input": [{"role": "user"}]}, "input.0.content: Field required"),
        ({"input": [HI, 5]}, "input.1: Input should be an object"),
        ({"input": 5}, "input: Input should be a valid string or a valid list"),
        (
            {"input": [{**HI, "content": [{"type": "input_image"}]}]},
            "input.0.content.0.type: Input should be 'input_text', 'output_text' or 'refusal'",
        ),
        ({"input": [{"type": "function_call_output"}]}, "input.0.call_id: Field required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name: Field required"),
        (
            {"tool_choice": "some"},
            "tool_choice: Input should be 'none', 'auto' or 'required' or an object",
        ),
    ],
)
def test_a_bad_item_is_named_where_it_is(changed: dict[str, Any], message: str) -> None:
    """A field that takes a text or a list is judged as what it is."""
    body = {**PLAIN, **changed}
    with pytest.raises(ValidationError) as raised:
        ResponsesRequest.model_validate(body)

    assert from_validation(raised.value.errors(), body).body["message"] == message
