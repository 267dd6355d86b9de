"""Message schema of OpenAI chats: turns that a client writes, and answers that it sends back."""

from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody, only
from bem_fleet.services.gateway.openai_tools import Calls
from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError


class ContentPart(OpenAIBody):
    """Text part of a message, or a refusal within an answer.

    ``cache_control`` and ``prompt_cache_breakpoint`` are hints to a cache.
    """

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    cache_control: dict[str, Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> "ContentPart":
        if getattr(self, self.type) is None:
            raise ValueError(f"a part of the type {self.type!r} needs the member {self.type!r}")
        return self


class Message(OpenAIBody):
    """One turn of a conversation.

    The members of an answer are taken as official clients send them back with the next request.
    Reasoning, annotations and the id of an answer are no part of the prompt.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[ContentPart] | None = Field(None, validate_default=True)
    name: str | None = Field(None, max_length=64)
    refusal: str | None = None

    annotations: list[Any] | None = None
    id: str | None = None
    provider_specific_fields: dict[str, Any] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Calls | None = None
    tool_call_id: str | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _has_its_call(self) -> "Message":
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to the role 'tool' and is needed there")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("the member 'tool_calls' belongs to the role 'assistant'")
        return self

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, content: Any, info: ValidationInfo) -> Any:
        """Read a text as its only part, so that errors have the caller's own path."""
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if content is None and info.data.get("role") == "assistant":
            return None
        if not isinstance(content, list):
            raise PydanticCustomError(
                "content", "must be a text or a list of text parts; write the text of the message"
            )
        return content

    @property
    def text(self) -> str:
        """Text of all parts; an answer without content says its refusal."""
        if self.content is None:
            return self.refusal or ""
        return "".join(part.text or part.refusal or "" for part in self.content)
