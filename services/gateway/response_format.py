"""Response formats: the form that an OpenAI body asks for, as the router's message.

OpenAI's ``response_format`` and vLLM's ``structured_outputs`` describe the same forms.
"""

import json
from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody, only
from bemfleet.router.v1 import router_pb2 as pb
from pydantic import Field, model_validator

MAX_CHOICES, MAX_CHOICE_CHARS = 256, 1024
FIELD = "structured_output"
_FORMS = ("json", "json_object", "regex", "grammar", "choice")


class NamedSchema(OpenAIBody):
    """Member ``json_schema`` of a response format.

    Name and description are for people. The schema is always enforced, as if ``strict`` were true.
    """

    name: str = Field("", max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(OpenAIBody):
    """OpenAI's form of an output."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("the type 'json_schema' needs the member 'json_schema'")
        if self.type != "json_schema" and self.json_schema is not None:
            raise ValueError(f"the type {self.type!r} excludes the member 'json_schema'")
        return self

    def message(self) -> pb.StructuredOutput | None:
        """Return the router's message; None for text."""
        if self.type == "text":
            return None
        # A schema that is left out is the one of OpenAI's JSON mode.
        if self.json_schema is None or self.json_schema.schema_ is None:
            return pb.StructuredOutput(json_object=True)
        return pb.StructuredOutput(json_schema=json.dumps(self.json_schema.schema_))


class StructuredOutputs(OpenAIBody):
    """vLLM's form of an output: exactly one of ``json``, ``regex``, ``grammar`` and the others."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: Annotated[Any, only(True)] = None
    regex: str | None = None
    grammar: str | None = None
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_CHOICE_CHARS)]],
            Field(min_length=1, max_length=MAX_CHOICES),
        ]
        | None
    ) = None

    disable_additional_properties: Annotated[Any, only(False)] = None
    disable_any_whitespace: Annotated[Any, only(False)] = None
    disable_fallback: bool | None = None
    structural_tag: Annotated[Any, only()] = None
    whitespace_pattern: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _has_one_form(self) -> "StructuredOutputs":
        values = (self.json_, self.json_object, self.regex, self.grammar, self.choice)
        given = [name for name, one in zip(_FORMS, values, strict=True) if one is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {' and '.join(given) or 'no form'}; give exactly one of {', '.join(_FORMS)}"
            )
        return self

    def message(self) -> pb.StructuredOutput:
        """Return the router's message."""
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return pb.StructuredOutput(json_schema=text)
        if self.regex is not None:
            return pb.StructuredOutput(regex=self.regex)
        if self.grammar is not None:
            return pb.StructuredOutput(grammar=self.grammar)
        if self.choice is not None:
            return pb.StructuredOutput(choice=pb.Choices(texts=self.choice))
        return pb.StructuredOutput(json_object=True)


def structured_output(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> pb.StructuredOutput | None:
    """Return the router's message of the form that a body asks for; None for any text."""
    if structured_outputs is not None:
        return structured_outputs.message()
    return response_format.message() if response_format is not None else None


def field_names(body: Any) -> dict[str, str]:
    """Return the caller's name of each field of the router's message.

    Args:
        body: Body of a completion.
    """
    if body.structured_outputs is None:
        return {
            FIELD: "response_format",
            f"{FIELD}.json_object": "response_format",
            f"{FIELD}.json_schema": "response_format.json_schema.schema",
        }
    names = {f"{FIELD}.{one}": f"structured_outputs.{one}" for one in _FORMS}
    return {
        **names,
        FIELD: "structured_outputs",
        f"{FIELD}.json_schema": "structured_outputs.json",
    }
