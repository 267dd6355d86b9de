"""Output forms: the structured output of a wire request."""

import pytest
from bem.engine import OutputForm
from bem.errors import InvalidRequestError
from bem_fleet.services.router.output_forms import parse_form
from bemfleet.router.v1 import router_pb2 as pb


def parsed(**form: object) -> OutputForm | None:
    """Return the form of a request with the given message."""
    return parse_form(pb.GenerateRequest(structured_output=pb.StructuredOutput(**form)))  # type: ignore[arg-type]


def test_each_form_is_read() -> None:
    """A request without the message asks for any text."""
    assert parse_form(pb.GenerateRequest()) is None
    assert parsed(json_object=True) == OutputForm("json_object")
    assert parsed(json_schema="{}") == OutputForm("json_schema", "{}")
    assert parsed(regex="a+") == OutputForm("regex", "a+")
    assert parsed(grammar="start: X") == OutputForm("grammar", "start: X")
    choice = parsed(choice=pb.Choices(texts=["a", "b"]))
    assert choice == OutputForm("choice", choices=("a", "b"))


def test_a_message_without_a_form_is_refused() -> None:
    """The error names the field and what to set."""
    with pytest.raises(InvalidRequestError, match="structured_output: has no form"):
        parsed()
    with pytest.raises(InvalidRequestError, match="json_object: is false"):
        parsed(json_object=False)
    with pytest.raises(InvalidRequestError, match=r"structured_output\.choice: 0 texts"):
        parsed(choice=pb.Choices())
    with pytest.raises(InvalidRequestError, match=r"structured_output\.regex: is empty"):
        parsed(regex="")
