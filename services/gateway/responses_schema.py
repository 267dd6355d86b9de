"""Request schema of OpenAI's Responses API, and the chat that it is answered as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody, only
from bem_fleet.services.gateway.openai_schema import MAX_LOGPROBS, ChatRequest
from bem_fleet.services.gateway.openai_tools import MAX_TOOLS, ToolName
from bem_fleet.services.gateway.responses_input import InputItem, Turn
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

MAX_ID_CHARS = 128
_LOGPROBS = "message.output_text.logprobs"


class TextFormat(OpenAIBody):
    """Form of the output; a schema is always enforced, as if ``strict`` were true."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(OpenAIBody):
    """Options of the text; ``verbosity`` is a hint to models that have it."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(OpenAIBody):
    """Options of the stream; no padding against an observer of sizes is sent."""

    include_obfuscation: bool | None = None


class FunctionTool(OpenAIBody):
    """Function that an answer may call; its schema is always enforced."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(OpenAIBody):
    """Choice of one function."""

    type: Literal["function"]
    name: ToolName


class ResponsesRequest(OpenAIBody):
    """Body of ``POST /v1/responses``."""

    model: str = Field(min_length=1, max_length=256)
    input: str | list[InputItem] = Field(min_length=1)
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(None, min_length=1, max_length=MAX_ID_CHARS)
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    text: TextOptions | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(None, max_length=16)
    user: str | None = Field(None, max_length=256)

    # Identity, cache, price, and hints to models that reason.
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = None

    background: Annotated[Any, only(False)] = None
    context_management: Annotated[Any, only([])] = None
    conversation: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None
    truncation: Annotated[Any, only("disabled")] = None

    @property
    def offers_tools(self) -> bool:
        """Whether the answer may call a function."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def wants_logprobs(self) -> bool:
        """Whether the output has log-probabilities."""
        return bool(self.top_logprobs) or _LOGPROBS in (self.include or ())

    def chat(self, turns: Sequence[Turn]) -> ChatRequest:
        """Return the conversation that answers the request.

        Args:
            turns: Earlier messages, followed by those of the input.

        Raises:
            RequestValidationError: The conversation is too long or has no text.
        """
        if self.instructions is not None:
            turns = [{"role": "system", "content": self.instructions}, *turns]
        own = ("model", "max_output_tokens", "temperature", "top_p", "stream", "user")
        given = {name: value for name in own if (value := getattr(self, name)) is not None}
        if "max_output_tokens" in given:
            given["max_completion_tokens"] = given.pop("max_output_tokens")
        if self.wants_logprobs:
            given |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if form := self._response_format():
            given["response_format"] = form
        try:
            return ChatRequest.model_validate({**given, **self._tools(), "messages": [*turns]})
        except ValidationError as err:
            problems = [{**one, "loc": _own_place(one["loc"])} for one in err.errors()]
            raise RequestValidationError(problems) from err

    def _tools(self) -> dict[str, Any]:
        """Return the members of a chat that offer the functions."""
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            return {"tool_choice": "required"}  # which the chat refuses by name
        if not self.tools:
            return {}
        tools = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in self.tools
        ]
        offered: dict[str, Any] = {"tools": tools, "parallel_tool_calls": self.parallel_tool_calls}
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            offered["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice is not None:
            offered["tool_choice"] = choice
        return offered

    def _response_format(self) -> dict[str, Any] | None:
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return {"type": "json_object"}
        schema = {"name": form.name or "", "schema": form.schema_}
        return {"type": "json_schema", "json_schema": schema}


def own_field(name: str) -> str:
    """Return the Responses API's name of a chat's field, such as ``input`` for ``messages.0``."""
    if name.partition(".")[0] == "messages":
        return "input"
    if name.partition(".")[0] == "response_format":
        return name.replace("response_format.json_schema", "text.format").replace(
            "response_format", "text.format"
        )
    if name.partition(".")[0] in ("tools", "tool_choice"):
        return name.replace(".function", "")
    return {"max_completion_tokens": "max_output_tokens"}.get(name, name)


def _own_place(place: Sequence[Any]) -> tuple[str, ...]:
    return tuple(own_field(".".join(map(str, place))).split("."))
