"""Request parsing: validates wire requests, names field and limit in errors, renders prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bem.composition.composer import MAX_ADAPTERS
from bem.engine import GenerationRequest, OutputForm, ScaledAdapter
from bem.errors import MAX_NAME_CHARS, InvalidRequestError
from bem_fleet.services.router.context_limit import DefaultTokens, output_limit
from bem_fleet.services.router.output_forms import parse_form
from bem_fleet.services.router.prompt_rendering import PromptRenderer
from bem_fleet.services.router.sampling_parsing import check_range, check_token, parse_sampling
from bemfleet.router.v1 import router_pb2 as pb
from fleet.wire import SAFETY_MINIMUM, SAFETY_STRENGTH

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_STOP_TOKENS = 128


class RequestParser:
    """Turns wire requests into engine requests for one model.

    Args:
        tokenizer: Tokenizer of the model, with a chat template.
        context_tokens: Limit of prompt and output together, in tokens.
        defaults: Output limits of requests that set none.
        composed_adapters: Most adapters in one request, the model's own one included.

    Attributes:
        prompts: Renders the input of requests.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_tokens: int,
        defaults: DefaultTokens | None = None,
        *,
        composed_adapters: int = MAX_ADAPTERS,
    ) -> None:
        self._composed_adapters = composed_adapters
        self.prompts = PromptRenderer(tokenizer, context_tokens)
        self._vocabulary = len(tokenizer)
        self._context_tokens = context_tokens
        self._defaults = defaults or DefaultTokens()

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
        adapters = self._adapters(request, adapter)
        sampling = parse_sampling(request.sampling, self._vocabulary)
        stop, stop_tokens = _stop(request.stop), self._stop_token_ids(request.stop_token_ids)
        ids = self.prompts.prompt_ids(request)
        max_tokens = output_limit(
            request,
            prompt_tokens=len(ids),
            context_tokens=self._context_tokens,
            defaults=self._defaults,
        )
        return GenerationRequest(
            prompt_ids=tuple(ids),
            sampling=sampling,
            max_tokens=max_tokens,
            min_tokens=_min_tokens(request.min_tokens, max_tokens),
            stop=stop,
            stop_token_ids=stop_tokens,
            ignore_eos=request.ignore_eos,
            adapter=adapters[0].name if adapters else None,
            adapter_scale=adapters[0].scale if adapters else 1.0,
            further_adapters=tuple(adapters[1:]),
            adapter_start=self.prompts.adapter_start(request, ids),
            safety_strength=safety_strength,
            deadline=deadline,
            form=self._form(request),
            echo=_echo(request),
        )

    def _adapters(self, request: pb.GenerateRequest, own: str | None) -> list[ScaledAdapter]:
        """Return the adapters of a request in order, the model's own one first."""
        scale = request.adapter_scale if request.HasField("adapter_scale") else 1.0
        check_range("adapter_scale", scale, 0, 2)
        adapters = [] if own is None else [ScaledAdapter(own, scale)]
        most = len(adapters) + len(request.adapters)
        if most > max(1, self._composed_adapters):
            raise InvalidRequestError(
                "adapters",
                f"{most} adapters with the model's; at most {self._composed_adapters} are "
                "allowed in one request; name fewer",
            )
        for place, one in enumerate(request.adapters):
            field = f"adapters[{place}]"
            if not one.name:
                raise InvalidRequestError(f"{field}.name", "is empty; name a loaded adapter")
            if any(one.name == other.name for other in adapters):
                raise InvalidRequestError(
                    f"{field}.name",
                    f"{one.name[:MAX_NAME_CHARS]!r} is named twice; name each adapter once",
                )
            own_scale = one.scale if one.HasField("scale") else 1.0
            check_range(f"{field}.scale", own_scale, 0, 2)
            adapters.append(ScaledAdapter(one.name, own_scale))
        return adapters

    def _form(self, request: pb.GenerateRequest) -> OutputForm | None:
        form, calls = parse_form(request), self.prompts.tool_form(request)
        if form and calls:
            raise InvalidRequestError(
                "structured_output", "excludes chat.tools; leave one of them out"
            )
        return form or calls

    def _stop_token_ids(self, tokens: Sequence[int]) -> frozenset[int]:
        if len(tokens) > MAX_STOP_TOKENS:
            raise InvalidRequestError(
                "stop_token_ids", f"{len(tokens)} tokens; at most {MAX_STOP_TOKENS} are allowed"
            )
        for token in tokens:
            check_token("stop_token_ids", token, self._vocabulary)
        return frozenset(tokens)


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
    check_range(header, strength, 0, 1)
    return strength


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


def _echo(request: pb.GenerateRequest) -> str | None:
    """Return the text with which the output begins; None if it begins behind the prompt."""
    if request.echo and request.WhichOneof("input") == "chat":
        raise InvalidRequestError(
            "echo", "is not served for a chat; give a prompt, or leave it out"
        )
    return request.prompt if request.echo else None


def _min_tokens(tokens: int, max_tokens: int) -> int:
    if not 0 <= tokens <= max_tokens:
        raise InvalidRequestError(
            "min_tokens",
            f"{tokens} is out of range; 0 to {max_tokens}, the request's max_tokens, is allowed",
        )
    return tokens
