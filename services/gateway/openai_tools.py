"""Tool schema of OpenAI chats: tools, the choice among them, and calls in messages."""

from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody
from pydantic import Field

MAX_TOOLS = 128
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ToolFunction(OpenAIBody):
    """Function of a tool; its schema is always enforced, as if ``strict`` were true."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(OpenAIBody):
    """Tool that an answer may call."""

    type: Literal["function"]
    function: ToolFunction
    cache_control: dict[str, Any] | None = None


class NamedFunction(OpenAIBody):
    """Function that an answer must call."""

    name: ToolName


class NamedTool(OpenAIBody):
    """Choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(OpenAIBody):
    """Function that an answer called, with its arguments as JSON text."""

    name: ToolName
    arguments: str = ""


class CalledTool(OpenAIBody):
    """Call in an answer that a client sends back."""

    id: str = Field(min_length=1, max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


Tools = Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)]
Calls = Annotated[list[CalledTool], Field(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool
