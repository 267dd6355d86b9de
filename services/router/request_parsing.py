"""From wire requests to engine requests: every limit is checked and named here."""

import math
from collections.abc import Iterable, Mapping, Sequence

from bem.engine import GenerationRequest, Sampling
from bem.engine.api import MAX_LOGPROBS
from bem.errors import InvalidRequestError
from bem_fleet.services.router.model_host import Mission
from bemfleet.router.v1 import router_pb2 as pb

MAX_TOKENS = 256
MAX_MESSAGES = 256
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_BIASES = 1024
SAFETY_STRENGTH = "bem-safety-strength"
ROLES = ("system", "user", "assistant")


def engine_request(
    mission: Mission,
    request: pb.GenerateRequest,
    deadline: float | None,
    strength: float | None = None,
) -> GenerationRequest:
    """Check a request and render its prompt.

    Args:
        mission: Knows the tokenizer, the adapters and the context.
        request: As it came over the wire.
        deadline: Value of ``time.monotonic()`` at which the caller stops waiting.
        strength: What the caller asks of the safety adapter, in [0, 1]; None leaves it to the mission.

    Raises:
        InvalidRequestError: A field breaks its limit.
        AdapterNotFoundError: The model is not loaded.
    """
    adapter = mission.adapter_of(request.model)
    max_tokens = request.max_tokens if request.HasField("max_tokens") else MAX_TOKENS
    if max_tokens < 1:
        raise InvalidRequestError("max_tokens", f"must be at least 1, is {max_tokens}")
    scale = request.adapter_scale if request.HasField("adapter_scale") else 1.0
    _in_range("adapter_scale", scale, 0, 2)
    sampling = _sampling(request.sampling, len(mission.backbone.tokenizer))
    stop = _stop(request.stop)
    ids = _prompt_ids(mission, request)
    limit = mission.context_tokens
    if len(ids) >= limit:
        raise InvalidRequestError(
            _input_field(request),
            f"has {len(ids)} tokens; the context holds {limit} with the answer",
        )
    if len(ids) + max_tokens > limit:
        if request.HasField("max_tokens"):
            raise InvalidRequestError(
                "max_tokens",
                f"{max_tokens} and the prompt's {len(ids)} tokens exceed the context of {limit}",
            )
        max_tokens = limit - len(ids)
    return GenerationRequest(
        prompt_ids=tuple(ids),
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
        adapter=adapter.name if adapter else None,
        adapter_scale=scale,
        adapter_start=_activation(mission, request, ids),
        safety_strength=mission.strength(strength),
        deadline=deadline,
    )


def safety_strength(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the strength that a call's metadata asks for; None without the header.

    Raises:
        InvalidRequestError: It is no number in [0, 1]; of several the last one counts.
    """
    given = [value for name, value in metadata if name == SAFETY_STRENGTH]
    if not given:
        return None
    text = given[-1] if isinstance(given[-1], str) else given[-1].decode("ascii", "replace")
    try:
        strength = float(text)
    except ValueError as err:
        raise InvalidRequestError(SAFETY_STRENGTH, f"{text[:40]!r} is no number") from err
    _in_range(SAFETY_STRENGTH, strength, 0, 1)
    return strength


def _sampling(given: pb.Sampling, vocabulary: int) -> Sampling:
    temperature = given.temperature if given.HasField("temperature") else 1.0
    top_p = given.top_p if given.HasField("top_p") else 1.0
    repetition = given.repetition_penalty if given.HasField("repetition_penalty") else 1.0
    _in_range("sampling.temperature", temperature, 0, 2)
    _in_range("sampling.top_p", top_p, 0, 1)
    _in_range("sampling.repetition_penalty", repetition, 0, 2)
    for field, value in (("top_p", top_p), ("repetition_penalty", repetition)):
        if value == 0:
            raise InvalidRequestError(f"sampling.{field}", "must be above 0")
    if given.top_k < 0:
        raise InvalidRequestError("sampling.top_k", f"must be at least 0, is {given.top_k}")
    _in_range("sampling.presence_penalty", given.presence_penalty, -2, 2)
    _in_range("sampling.frequency_penalty", given.frequency_penalty, -2, 2)
    _in_range("sampling.logprobs", given.logprobs, 0, MAX_LOGPROBS)
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=given.top_k,
        seed=given.seed if given.HasField("seed") else None,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        repetition_penalty=repetition,
        logit_bias=_bias(given.logit_bias, vocabulary),
        logprobs=given.logprobs if given.HasField("logprobs") else None,
    )


def _bias(given: Mapping[int, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    if len(given) > MAX_BIASES:
        raise InvalidRequestError(
            "sampling.logit_bias", f"has {len(given)} tokens; at most {MAX_BIASES}"
        )
    for token, value in given.items():
        if not 0 <= token < vocabulary:
            raise InvalidRequestError(
                "sampling.logit_bias", f"names token {token}; the model has 0 to {vocabulary - 1}"
            )
        _in_range("sampling.logit_bias", value, -100, 100)
    return tuple(sorted(given.items()))


def _activation(mission: Mission, request: pb.GenerateRequest, ids: Sequence[int]) -> int:
    """Return how many tokens of the prompt lie before the message with which the adapter begins."""
    count = request.adapter_from_message
    if count == 0:
        return 0
    messages = request.chat.messages
    if not 0 <= count < len(messages):
        raise InvalidRequestError(
            "adapter_from_message", f"must be 0 to {max(0, len(messages) - 1)}, is {count}"
        )
    before = _render(mission, messages[:count], answering=False)
    start = mission.backbone.tokenizer.encode(before, add_special_tokens=False)
    # A template that ends a shorter conversation in another way shares less.
    pairs = zip(ids, start, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(start))


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequestError(field, f"must be in [{low:g}, {high:g}], is {value:g}")


def _stop(given: Sequence[str]) -> tuple[str, ...]:
    if len(given) > MAX_STOPS:
        raise InvalidRequestError("stop", f"has {len(given)} texts; at most {MAX_STOPS}")
    for text in given:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                "stop", f"each text has 1 to {MAX_STOP_CHARACTERS} characters, one has {len(text)}"
            )
    return tuple(given)


def _input_field(request: pb.GenerateRequest) -> str:
    return "chat.messages" if request.WhichOneof("input") == "chat" else "prompt"


def _prompt_ids(mission: Mission, request: pb.GenerateRequest) -> list[int]:
    if request.WhichOneof("input") == "chat":
        text = _render(mission, request.chat.messages)
    elif request.prompt:
        text = request.prompt
    else:
        raise InvalidRequestError("prompt", "is empty; give a prompt or a chat with messages")
    # A token has at least one character: far too long a text is refused without tokenising it.
    longest = mission.context_tokens * 64
    if len(text) > longest:
        raise InvalidRequestError(
            _input_field(request), f"has {len(text)} characters; at most {longest} are looked at"
        )
    ids: list[int] = mission.backbone.tokenizer.encode(text, add_special_tokens=False)
    return ids


def _render(mission: Mission, messages: Sequence[pb.ChatMessage], *, answering: bool = True) -> str:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequestError(
            "chat.messages", f"must be 1 to {MAX_MESSAGES} messages, are {len(messages)}"
        )
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequestError(
                f"chat.messages[{index}].role",
                f"{message.role[:40]!r} is not one of {', '.join(ROLES)}",
            )
        if not message.content:
            raise InvalidRequestError(f"chat.messages[{index}].content", "is empty")
    chat = [{"role": m.role, "content": m.content} for m in messages]
    tokenizer = mission.backbone.tokenizer
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=answering)
    return text
