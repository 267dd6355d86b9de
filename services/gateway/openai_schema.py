"""Request schemas of the OpenAI routes and of feedback; an unknown field is an error."""

from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody, as_list, as_prompts, only
from bem_fleet.services.gateway.openai_messages import Message
from bem_fleet.services.gateway.openai_tools import ToolChoice, ToolDefinition, Tools
from bem_fleet.services.gateway.response_format import ResponseFormat, StructuredOutputs
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

MAX_MESSAGES = 256
MAX_LOGPROBS = 20
MAX_STOP_TOKENS = 128
# Above the most that a router can allow, so that its own setting decides.
MAX_ADAPTERS = 16
MAX_PROMPT_IDS = 1_048_576
_INT32 = 2**31 - 1
TokenId = Annotated[int, Field(ge=0, le=_INT32)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]


class StreamOptions(OpenAIBody):
    """Options of a streamed completion.

    ``include_obfuscation`` pads events against an observer of their sizes. Its padding is no part
    of the answer, and none is sent.
    """

    include_usage: bool | None = False
    include_obfuscation: bool | None = False
    continuous_usage_stats: bool | None = False


class NeutralFields(OpenAIBody):
    """Fields of both routes that are taken without effect, or refused if they ask for something.

    The first group is OpenAI's: identity, storage, cache and price. The second is vLLM's.
    """

    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None

    allowed_token_ids: Annotated[Any, only([])] = None
    bad_words: Annotated[Any, only([])] = None
    early_stopping: Annotated[Any, only(False)] = None
    echo: Annotated[Any, only(False)] = None
    include_stop_str_in_output: Annotated[Any, only(False)] = None
    length_penalty: Annotated[Any, only(1)] = None
    priority: int | None = None
    return_token_ids: Annotated[Any, only(False)] = None
    return_tokens_as_token_ids: Annotated[Any, only(False)] = None
    skip_special_tokens: Annotated[Any, only(True)] = None
    spaces_between_special_tokens: bool | None = None
    use_beam_search: Annotated[Any, only(False)] = None


class PlanStep(OpenAIBody):
    """Step of a plan that the body gives, for the model ``router``."""

    adapter: Literal["retrieve", "reason", "formalize", "general"]
    scope: Literal["passages", "values", "both"] = "passages"
    span: Literal["suffix", "prompt"] = "suffix"
    rank_budget: int = Field(0, ge=0, le=4096)


class ScaledAdapter(OpenAIBody):
    """Adapter that is composed with the model's."""

    name: str = Field(min_length=1, max_length=64)
    scale: float = Field(1.0, ge=0, le=2)


class GenerationFields(NeutralFields):
    """Fields that chat and text completions share.

    ``response_format`` is OpenAI's and ``structured_outputs`` vLLM's way to say which form the
    output has.
    """

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=_INT32)
    min_tokens: int | None = Field(None, ge=0, le=_INT32)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=_INT32)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: Annotated[Annotated[list[Stop], Field(max_length=4)] | None, BeforeValidator(as_list)] = (
        None
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    logit_bias: (
        Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
        | None
    ) = None
    adapter_scale: float | None = Field(None, ge=0, le=2)
    adapters: Annotated[list[ScaledAdapter], Field(max_length=MAX_ADAPTERS)] | None = None
    plan: Annotated[list[PlanStep], Field(min_length=1, max_length=3)] | None = None
    user: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _has_one_form(self) -> "GenerationFields":
        wanted = self.response_format is not None and self.response_format.type != "text"
        if wanted and self.structured_outputs is not None:
            raise ValueError("response_format excludes structured_outputs; give one of them")
        return self

    @property
    def choices_per_prompt(self) -> int:
        """Number of choices of each prompt."""
        return self.n or 1


class ChatRequest(GenerationFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=_INT32)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    adapter_from_message: int | None = Field(None, ge=0, lt=MAX_MESSAGES)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    # Hints to models that reason, which these models do not.
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # The predicted output of a caller makes an answer faster, never different.
    prediction: dict[str, Any] | None = None

    add_special_tokens: Annotated[Any, only(False)] = None
    audio: Annotated[Any, only()] = None
    chat_template_kwargs: Annotated[Any, only({})] = None
    documents: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    modalities: Annotated[Any, only(["text"])] = None
    web_search_options: Annotated[Any, only()] = None

    @field_validator("messages")
    @classmethod
    def _has_text(cls, messages: list[Message]) -> list[Message]:
        if not any(message.text or message.tool_calls for message in messages):
            raise PydanticCustomError(
                "no_text", "no message has text; at least one must; write a message"
            )
        return messages

    @model_validator(mode="after")
    def _fields_agree(self) -> "ChatRequest":
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true; set it")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice asks for a call; give tools")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError(
                "continue_final_message excludes add_generation_prompt; set only one of them"
            )
        return self

    @property
    def offered_tools(self) -> list[ToolDefinition]:
        """Tools that the answer may call."""
        return [] if self.tool_choice == "none" else (self.tools or [])

    @property
    def logprob_count(self) -> int | None:
        """Number of most likely tokens to report per position; None reports nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate; None leaves it to the mission."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationFields):
    """Body of ``POST /v1/completions``."""

    prompt: Annotated[
        list[
            Annotated[
                Annotated[str, Field(min_length=1), Tag("text")]
                | Annotated[
                    list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_IDS), Tag("ids")
                ],
                Discriminator(lambda one: "ids" if isinstance(one, list) else "text"),
            ]
        ],
        BeforeValidator(as_prompts),
        Field(min_length=1, max_length=16),
    ]
    max_tokens: int | None = Field(None, ge=0, le=_INT32)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = Field(None, ge=1)
    add_special_tokens: Annotated[Any, only(True)] = None
    suffix: Annotated[Any, only("")] = None

    @model_validator(mode="after")
    def _generates_or_echoes(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is not set; ask for a token, or set echo")
        return self

    @field_validator("best_of")
    @classmethod
    def _returns_all(cls, best_of: int | None, info: Any) -> int | None:
        choices = info.data.get("n") or 1
        if best_of not in (None, choices):
            raise PydanticCustomError(
                "best_of",
                "{best_of} candidates for {choices} choices are not served; it must equal n; "
                "leave it out",
                {"best_of": best_of, "choices": choices},
            )
        return best_of

    @property
    def logprob_count(self) -> int | None:
        """Number of most likely tokens to report per position; None reports nothing."""
        return self.logprobs

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate; None leaves it to the mission."""
        return self.max_tokens


class FeedbackRequest(OpenAIBody):
    """Body of ``POST /v1/feedback``: a person's rating or correction of an answer."""

    completion_id: str = Field(min_length=1, max_length=128)
    rating: Literal["up", "down"] | None = None
    correction: str | None = Field(None, min_length=1, max_length=32_768)
    edit: str | None = Field(None, min_length=1, max_length=32_768)
    comment: str | None = Field(None, max_length=4_096)
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field([], max_length=16)
    prompt: str | None = Field(None, max_length=32_768)
    answer: str | None = Field(None, max_length=32_768)
    session: str | None = Field(None, max_length=128)
    user: str | None = Field(None, max_length=128)
    consent: bool = False

    @model_validator(mode="after")
    def _has_content(self) -> "FeedbackRequest":
        if not (self.rating or self.correction or self.edit or self.comment or self.tags):
            raise ValueError("give a rating, a correction, an edit, a comment or tags")
        return self
