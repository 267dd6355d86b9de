"""Response formats: OpenAI's and vLLM's forms as the router's message."""

import json
from typing import Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.generation import router_requests
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest
from bem_fleet.services.gateway.response_format import field_names
from bemfleet.router.v1 import router_pb2 as pb
from pydantic import ValidationError

SCHEMA = {"type": "object", "properties": {"ä": {"type": "string"}}}
TURN = {"role": "user", "content": "x"}


def sent(**fields: Any) -> pb.StructuredOutput | None:
    """Return the message that the router gets for a chat."""
    body = ChatRequest.model_validate({"model": "m", "messages": [TURN], **fields})
    (request,) = router_requests(body)
    return request.structured_output if request.HasField("structured_output") else None


def refused(**fields: Any) -> dict[str, Any]:
    """Return the error object of a chat."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", "messages": [TURN], **fields})
    return dict(from_validation(caught.value.errors()).body)


def test_formats_of_openai() -> None:
    """Text asks for nothing; a schema keeps the order of its members."""
    assert sent(response_format={"type": "text"}) is None
    assert sent(response_format={"type": "json_object"}) == pb.StructuredOutput(json_object=True)
    named = {"name": "n", "schema": SCHEMA, "strict": True, "description": "d"}
    message = sent(response_format={"type": "json_schema", "json_schema": named})
    assert message is not None
    assert json.loads(message.json_schema) == SCHEMA
    open_ended = {"type": "json_schema", "json_schema": {"name": "n", "schema": None}}
    assert sent(response_format=open_ended) == pb.StructuredOutput(json_object=True)


def test_forms_of_vllm() -> None:
    """Each of the five forms, and a schema as a text."""
    assert sent(structured_outputs={"json": '{"a": 1}'}) == pb.StructuredOutput(
        json_schema='{"a": 1}'
    )
    assert sent(structured_outputs={"json": {}}) == pb.StructuredOutput(json_schema="{}")
    assert sent(structured_outputs={"regex": "a", "json": None}) == pb.StructuredOutput(regex="a")
    assert sent(structured_outputs={"grammar": "g"}) == pb.StructuredOutput(grammar="g")
    choice = sent(structured_outputs={"choice": ["a", "b"]})
    assert choice == pb.StructuredOutput(choice=pb.Choices(texts=["a", "b"]))
    wanted = sent(structured_outputs={"json_object": True, "disable_fallback": True})
    assert wanted == pb.StructuredOutput(json_object=True)


def test_completions_have_forms_too() -> None:
    """As vLLM serves them."""
    body = CompletionRequest.model_validate(
        {"model": "m", "prompt": "x", "structured_outputs": {"regex": "a"}}
    )
    (request,) = router_requests(body)
    assert request.structured_output.regex == "a"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs the member"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "n"}}},
            "response_format",
            "excludes",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "no form"),
        ({"structured_outputs": {"regex": "a", "grammar": "g"}}, "structured_outputs", "exactly"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        (
            {"structured_outputs": {"regex": "a", "structural_tag": "t"}},
            "structured_outputs.structural_tag",
            "not served",
        ),
        (
            {
                "structured_outputs": {"regex": "a"},
                "response_format": {"type": "json_object"},
            },
            None,
            "excludes structured_outputs",
        ),
    ],
)
def test_a_malformed_format_is_refused_by_name(
    fields: dict[str, Any], param: str | None, words: str
) -> None:
    """The error has the caller's own path."""
    error = refused(**fields)

    assert error["param"] == param
    assert words in error["message"]


def test_errors_of_the_router_get_the_callers_names() -> None:
    """The message's fields are not the body's."""
    chat = {"model": "m", "messages": [TURN]}
    of_openai = field_names(ChatRequest.model_validate(chat))
    of_vllm = field_names(
        ChatRequest.model_validate({**chat, "structured_outputs": {"regex": "a"}})
    )
    field = "structured_output.json_schema"

    assert of_openai[field] == "response_format.json_schema.schema"
    assert of_vllm[field] == "structured_outputs.json"
    assert of_vllm["structured_output.regex"] == "structured_outputs.regex"
