"""Request parsing: validates wire requests, names field and limit in errors, renders prompts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bem.engine import GenerationRequest, Sampling
from bem.engine.api import MAX_LOGPROBS
from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2 as pb
from fleet.wire import SAFETY_MINIMUM, SAFETY_STRENGTH

MAX_TOKENS = 256
MAX_MESSAGES = 256
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_BIASES = 1024
ROLES = ("system", "user", "assistant")
# A token of an ordinary vocabulary has fewer characters.
_MAX_CHARACTERS_PER_TOKEN = 64


class RequestParser:
    """Turns wire requests into engine requests for one model.

    Args:
        tokenizer: Tokenizer of the model, with a chat template.
        context_tokens: Limit of prompt and output together, in tokens.
    """

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens

    def parse(
        self,
        request: pb.GenerateRequest,
        *,
        adapter: str | None,
        safety_strength: float,
        deadline: float | None,
    ) -> GenerationRequest:
        """Validate a request and render its prompt.

        Args:
            request: Request as received.
            adapter: Name of the loaded adapter that the request names; None for the base model.
            safety_strength: Strength of the safety adapter, in [0, 1].
            deadline: Value of ``time.monotonic()`` at which the caller stops waiting, or None.

        Raises:
            InvalidRequestError: A field is out of its limit.
        """
        if request.HasField("max_tokens") and request.max_tokens < 1:
            raise InvalidRequestError(
                "max_tokens", f"{request.max_tokens} is too small; at least 1 is allowed"
            )
        scale = request.adapter_scale if request.HasField("adapter_scale") else 1.0
        _check_range("adapter_scale", scale, 0, 2)
        sampling = _sampling(request.sampling, len(self._tokenizer))
        stop = _stop(request.stop)
        ids = self._prompt_ids(request)
        return GenerationRequest(
            prompt_ids=tuple(ids),
            sampling=sampling,
            max_tokens=self._max_tokens(request, len(ids)),
            stop=stop,
            adapter=adapter,
            adapter_scale=scale,
            adapter_start=self._adapter_start(request, ids),
            safety_strength=safety_strength,
            deadline=deadline,
        )

    def _max_tokens(self, request: pb.GenerateRequest, prompt_tokens: int) -> int:
        """Return the output limit; the default shrinks to what the context leaves."""
        limit = self._context_tokens
        if prompt_tokens >= limit:
            raise InvalidRequestError(
                _input_field(request),
                f"{prompt_tokens} tokens are too long; prompt and output have {limit} together",
            )
        if not request.HasField("max_tokens"):
            return min(MAX_TOKENS, limit - prompt_tokens)
        if prompt_tokens + request.max_tokens > limit:
            raise InvalidRequestError(
                "max_tokens",
                f"{request.max_tokens} and the prompt's {prompt_tokens} tokens exceed the context; "
                f"the limit is {limit} together",
            )
        return request.max_tokens

    def _adapter_start(self, request: pb.GenerateRequest, ids: Sequence[int]) -> int:
        """Return the number of prompt tokens before the message at which the adapter begins."""
        count = request.adapter_from_message
        if count == 0:
            return 0
        messages = request.chat.messages
        if not 0 <= count < len(messages):
            raise InvalidRequestError(
                "adapter_from_message",
                f"{count} is out of range; 0 to {max(0, len(messages) - 1)} is allowed",
            )
        before = self._render(messages[:count], add_generation_prompt=False)
        start = self._tokenizer.encode(before, add_special_tokens=False)
        # The common prefix: a template may end a shorter conversation in another way.
        pairs = enumerate(zip(ids, start, strict=False))
        return next((index for index, (one, other) in pairs if one != other), len(start))

    def _prompt_ids(self, request: pb.GenerateRequest) -> list[int]:
        if request.WhichOneof("input") == "chat":
            text = self._render(request.chat.messages)
        elif request.prompt:
            text = request.prompt
        else:
            raise InvalidRequestError("prompt", "is empty; give a prompt or a chat with messages")
        # A much too long text is refused without tokenising it.
        longest = self._context_tokens * _MAX_CHARACTERS_PER_TOKEN
        if len(text) > longest:
            raise InvalidRequestError(
                _input_field(request),
                f"{len(text)} characters are too long; at most {longest} are allowed",
            )
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _render(
        self, messages: Sequence[pb.ChatMessage], *, add_generation_prompt: bool = True
    ) -> str:
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise InvalidRequestError(
                "chat.messages", f"{len(messages)} messages; 1 to {MAX_MESSAGES} are allowed"
            )
        for index, message in enumerate(messages):
            if message.role not in ROLES:
                raise InvalidRequestError(
                    f"chat.messages[{index}].role",
                    f"{message.role[:40]!r} is unknown; use one of {', '.join(ROLES)}",
                )
            if not message.content:
                raise InvalidRequestError(
                    f"chat.messages[{index}].content", "is empty; at least 1 character is needed"
                )
        chat = [{"role": m.role, "content": m.content} for m in messages]
        text: str = self._tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text


@dataclass(frozen=True)
class RequestedStrength:
    """Safety strength that a call's metadata requests.

    Attributes:
        value: Strength, in [0, 1]; None for the service's default.
        minimum: Least strength, in [0, 1], which bounds the default too.
    """

    value: float | None = None
    minimum: float = 0.0


DEFAULT_STRENGTH = RequestedStrength()
"""Strength of a call without any header."""


def requested_safety_strength(metadata: Iterable[tuple[str, str | bytes]]) -> RequestedStrength:
    """Return the safety strength that a call's metadata requests.

    Of several headers the last one counts.

    Raises:
        InvalidRequestError: A header is not a number in [0, 1].
    """
    pairs = list(metadata)
    minimum = _strength_header(pairs, SAFETY_MINIMUM)
    return RequestedStrength(_strength_header(pairs, SAFETY_STRENGTH), minimum or 0.0)


def _strength_header(metadata: Iterable[tuple[str, str | bytes]], header: str) -> float | None:
    values = [value for name, value in metadata if name == header]
    if not values:
        return None
    text = values[-1] if isinstance(values[-1], str) else values[-1].decode("ascii", "replace")
    try:
        strength = float(text)
    except ValueError as err:
        raise InvalidRequestError(
            header, f"{text[:40]!r} is not a number; [0, 1] is allowed"
        ) from err
    _check_range(header, strength, 0, 1)
    return strength


def _sampling(message: pb.Sampling, vocabulary: int) -> Sampling:
    temperature = message.temperature if message.HasField("temperature") else 1.0
    top_p = message.top_p if message.HasField("top_p") else 1.0
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    _check_range("sampling.temperature", temperature, 0, 2)
    _check_range("sampling.top_p", top_p, 0, 1)
    _check_range("sampling.repetition_penalty", repetition, 0, 2)
    for field, value in (("top_p", top_p), ("repetition_penalty", repetition)):
        if value == 0:
            raise InvalidRequestError(f"sampling.{field}", "is 0; it must be above 0")
    if message.top_k < 0:
        raise InvalidRequestError(
            "sampling.top_k", f"{message.top_k} is negative; at least 0 is allowed"
        )
    _check_range("sampling.presence_penalty", message.presence_penalty, -2, 2)
    _check_range("sampling.frequency_penalty", message.frequency_penalty, -2, 2)
    _check_range("sampling.logprobs", message.logprobs, 0, MAX_LOGPROBS)
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=message.top_k,
        seed=message.seed if message.HasField("seed") else None,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=repetition,
        logit_bias=_logit_bias(message.logit_bias, vocabulary),
        logprobs=message.logprobs if message.HasField("logprobs") else None,
    )


def _logit_bias(biases: Mapping[int, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    if len(biases) > MAX_BIASES:
        raise InvalidRequestError(
            "sampling.logit_bias", f"{len(biases)} tokens; at most {MAX_BIASES} are allowed"
        )
    for token, value in biases.items():
        if not 0 <= token < vocabulary:
            raise InvalidRequestError(
                "sampling.logit_bias",
                f"has an unknown token {token}; the model has 0 to {vocabulary - 1}",
            )
        _check_range("sampling.logit_bias", value, -100, 100)
    return tuple(sorted(biases.items()))


def _stop(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) > MAX_STOPS:
        raise InvalidRequestError("stop", f"{len(texts)} texts; at most {MAX_STOPS} are allowed")
    for text in texts:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                "stop",
                f"a text of {len(text)} characters; 1 to {MAX_STOP_CHARACTERS} are allowed",
            )
    return tuple(texts)


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequestError(
            field, f"{value:g} is out of range; [{low:g}, {high:g}] is allowed"
        )


def _input_field(request: pb.GenerateRequest) -> str:
    return "chat.messages" if request.WhichOneof("input") == "chat" else "prompt"
