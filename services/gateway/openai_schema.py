"""Request schemas of the OpenAI routes and of feedback; an unknown field is an error."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_MESSAGES = 256
MAX_LOGPROBS = 20
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]


def _as_list(value: Any) -> Any:
    """Read one text as a list of one, so that an error names the limit and not two types."""
    return [value] if isinstance(value, str) else value


class _OpenAIBody(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(_OpenAIBody):
    """Options of a streamed completion."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationFields(_OpenAIBody):
    """Fields that chat and text completions share."""

    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    n: int | None = Field(None, ge=1, le=8)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: Annotated[
        Annotated[list[Stop], Field(max_length=4)] | None, BeforeValidator(_as_list)
    ] = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    logit_bias: (
        Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
        | None
    ) = None
    adapter_scale: float | None = Field(None, ge=0, le=2)
    user: str | None = Field(None, max_length=256)


class TextPart(_OpenAIBody):
    """Text part of a message."""

    type: Literal["text"]
    text: str


class Message(_OpenAIBody):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, max_length=64)

    @property
    def text(self) -> str:
        """Text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ResponseFormat(_OpenAIBody):
    """Response format; only free text is supported."""

    type: Literal["text"]


class ChatRequest(GenerationFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    adapter_from_message: int | None = Field(None, ge=0, lt=MAX_MESSAGES)
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def logprob_count(self) -> int | None:
        """Number of most likely tokens to report per position; None reports nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationFields):
    """Body of ``POST /v1/completions``."""

    prompt: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(_as_list),
        Field(min_length=1, max_length=16),
    ]
    echo: Literal[False] | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def logprob_count(self) -> int | None:
        """Number of most likely tokens to report per position; None reports nothing."""
        return self.logprobs


class FeedbackRequest(_OpenAIBody):
    """Body of ``POST /v1/feedback``: a person's rating or correction of an answer."""

    completion_id: str = Field(min_length=1, max_length=128)
    rating: Literal["up", "down"] | None = None
    correction: str | None = Field(None, min_length=1, max_length=32_768)
    comment: str | None = Field(None, max_length=4_096)
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field([], max_length=16)
    session: str | None = Field(None, max_length=128)
    consent: bool = False

    @model_validator(mode="after")
    def _has_content(self) -> "FeedbackRequest":
        if not (self.rating or self.correction or self.comment or self.tags):
            raise ValueError("give a rating, a correction, a comment or tags")
        return self
