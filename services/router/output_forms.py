"""Output forms: the structured output that a wire request asks for."""

from bem.engine import OutputForm
from bem.engine.grammar import check_form
from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2 as pb


def parse_form(request: pb.GenerateRequest) -> OutputForm | None:
    """Return the form of the output that a request asks for; None for any text.

    Args:
        request: Request as received.

    Raises:
        InvalidRequestError: The form exceeds a limit, or the message has none.
    """
    if not request.HasField("structured_output"):
        return None
    message = request.structured_output
    kind = message.WhichOneof("form")
    if kind is None:
        raise InvalidRequestError(
            "structured_output",
            "has no form; set json_object, json_schema, regex, grammar or choice",
        )
    if kind == "json_object":
        if not message.json_object:
            raise InvalidRequestError("structured_output.json_object", "is false; set it to true")
        form = OutputForm("json_object")
    elif kind == "choice":
        form = OutputForm("choice", choices=tuple(message.choice.texts))
    else:
        form = OutputForm(kind, str(getattr(message, kind)))
    check_form(form)
    return form
