"""Request and response types: sampling settings, generation requests, output deltas."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bem.engine.grammar import OutputForm
from bem.errors import MAX_NAME_CHARS, InvalidRequestError

FinishReason = Literal["stop", "length"]
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one request.

    Penalties and bias change the logits first, temperature divides them, then ``min_p``, ``top_k``
    and ``top_p`` keep the most probable tokens, in this order.

    Attributes:
        temperature: Divisor of the logits in [0, 2]; 0 is greedy decoding.
        top_p: Nucleus mass in (0, 1] (arXiv 1904.09751).
        top_k: Number of most probable tokens to keep; 0 keeps all.
        min_p: Smallest probability that is kept, as a share of the largest one, in [0, 1]; 0 keeps
            all (arXiv 2407.01082).
        seed: Seed of the request's own random generator; None draws one.
        presence_penalty: Amount subtracted once from generated tokens, in [-2, 2].
        frequency_penalty: Amount subtracted per occurrence of a generated token, in [-2, 2].
        repetition_penalty: Divides positive and multiplies negative logits of tokens that occur in
            the prompt or the output, in (0, 2] (arXiv 1909.05858); 1 changes nothing.
        logit_bias: Pairs of a token id and the value added to its logit, in [-100, 100]; each
            token id occurs once.
        logprobs: Number of most probable tokens reported beside each chosen one, 0 to 20; None
            reports no log-probabilities. They are taken before penalties, bias and temperature.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class ScaledAdapter:
    """An adapter that runs beside others in one request.

    Attributes:
        name: Name of a loaded adapter.
        scale: Factor of its code in [0, 2]; at 0 it takes no part.
    """

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Segment:
    """A range of prompt tokens that runs with one adapter.

    The first code (gate vector) is computed from the first ``code_prefix_tokens`` tokens of the
    sequence. After that position the code is recomputed every 64 tokens, exactly as it was while
    the turn was generated.

    Attributes:
        start: First token that runs with the adapter. Tokens before the first segment run with the
            base model.
        code_prefix_tokens: Number of tokens that the controller read for the first code: the
            prompt length of that turn.
        adapter: Name of a loaded adapter, or None for the base model.
        scale: Factor of the code in [0, 2].
        rank: Number of leading ranks of the adapter that are used; 0 uses all.
        further: Adapters that are composed with it, in the order of precedence.
    """

    start: int
    code_prefix_tokens: int
    adapter: str | None
    scale: float = 1.0
    rank: int = 0
    further: tuple[ScaledAdapter, ...] = ()

    @property
    def active(self) -> tuple[ScaledAdapter, ...]:
        """Adapters that take part, in order."""
        first = () if self.adapter is None else (ScaledAdapter(self.adapter, self.scale),)
        return tuple(one for one in (*first, *self.further) if one.scale)


@dataclass(frozen=True)
class GenerationRequest:
    """A request to generate text.

    Attributes:
        prompt_ids: Token ids of the rendered prompt, at least one.
        sampling: Sampling settings.
        max_tokens: Number of tokens to generate, at least 1, or 0 with ``echo``.
        stop: Stop strings; they end generation and are not part of the output.
        min_tokens: Number of tokens before which neither an end token nor a stop ends generation.
        stop_token_ids: Tokens that end generation as an end token does.
        ignore_eos: Whether generation goes on after an end token of the model.
        adapter: Name of a loaded adapter, or None for the base model.
        adapter_scale: Factor of the adapter's code in [0, 2]; 0 is the base model exactly.
        adapter_rank: Number of leading ranks of the adapter that are used, exactly as if its
            factors ended there; 0 uses all.
        further_adapters: Adapters that are composed with ``adapter``, in the order of precedence:
            each is projected outside those before it, and all share one trust region.
        adapter_start: First prompt token that runs with the adapter, as in activated LoRA (arXiv
            2504.12397): the tokens before it keep their keys and values.
        earlier_segments: Adapters of earlier turns in order, all before ``adapter_start``; tokens
            that they do not cover run with the base model.
        safety_strength: Factor of the safety adapter in [0, 1], multiplied by the value head's
            score of the prompt; 0 is the base model exactly. No effect without a safety adapter.
        deadline: Value of ``time.monotonic()`` after which the request is dropped, or None.
        client: Name of the client whose share of the engine the request takes.
        yields: Whether the request gives way to all others: it is refused unless a slot is free,
            and ended when another one waits for a slot.
        pools_prompt: Whether the first delta carries the mean state of the prompt.
        form: Form of the whole output, which excludes ``min_tokens`` and ``ignore_eos``; None for
            any text.
        echo: Text of the prompt, with which the output begins; None begins it behind the prompt.
            With log-probabilities, the tokens of the prompt have theirs too.

    Raises:
        InvalidRequestError: ``adapter_start`` or a segment lies outside the prompt, segments are
            out of order, an adapter is composed with itself, or a form meets a field that it
            excludes.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    adapter: str | None = None
    adapter_scale: float = 1.0
    adapter_rank: int = 0
    further_adapters: tuple[ScaledAdapter, ...] = ()
    adapter_start: int = 0
    earlier_segments: tuple[Segment, ...] = ()
    safety_strength: float = 0.0
    deadline: float | None = None
    client: str = ""
    yields: bool = False
    pools_prompt: bool = False
    form: OutputForm | None = None
    echo: str | None = None

    def __post_init__(self) -> None:
        if self.form and (self.min_tokens or self.ignore_eos):
            raise InvalidRequestError(
                "min_tokens" if self.min_tokens else "ignore_eos",
                "excludes a form of the output, which says where it ends; leave one of them out",
            )
        prompt_tokens = len(self.prompt_ids)
        if not 0 <= self.adapter_start <= prompt_tokens:
            raise InvalidRequestError(
                "adapter_start", f"{self.adapter_start} is out of range; 0 to {prompt_tokens}"
            )
        names = [one.name for one in self.further_adapters]
        for place, name in enumerate(names):
            if name == self.adapter or name in names[:place]:
                raise InvalidRequestError(
                    f"adapters[{place}].name",
                    f"{name[:MAX_NAME_CHARS]!r} is named twice; name each adapter once",
                )
        if self.max_tokens < (self.echo is None):
            raise InvalidRequestError(
                "max_tokens",
                f"{self.max_tokens} is too small; at least 1 is allowed, or 0 with echo; raise it",
            )
        first_allowed = 0
        for segment in self.earlier_segments:
            if not first_allowed <= segment.start < self.adapter_start:
                raise InvalidRequestError(
                    "earlier_segments",
                    f"start {segment.start} is out of order; "
                    f"{first_allowed} to {self.adapter_start - 1} is allowed here",
                )
            if not 1 <= segment.code_prefix_tokens <= prompt_tokens:
                raise InvalidRequestError(
                    "earlier_segments",
                    f"code_prefix_tokens {segment.code_prefix_tokens} is out of range; "
                    f"1 to {prompt_tokens}",
                )
            first_allowed = segment.start + 1

    @property
    def scores_prompt(self) -> bool:
        """Whether the output carries the log-probabilities of the prompt's tokens."""
        return self.echo is not None and self.sampling.logprobs is not None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments in order from token 0; the request's own adapter comes last."""
        last = Segment(
            self.adapter_start,
            len(self.prompt_ids),
            self.adapter,
            self.adapter_scale,
            self.adapter_rank,
            self.further_adapters,
        )
        first = (Segment(0, 1, None),) if self.adapter_start and not self.earlier_segments else ()
        if self.earlier_segments and self.earlier_segments[0].start:
            first = (Segment(0, 1, None),)
        return (*first, *self.earlier_segments, last)


@dataclass(frozen=True)
class TopLogprob:
    """A candidate token with its log-probability.

    Attributes:
        token: Token id.
        text: Bytes of the token; a character may span several tokens.
        logprob: Natural logarithm of the probability.
    """

    token: int
    text: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob(TopLogprob):
    """A token of the output with its log-probability.

    Attributes:
        top: The most probable tokens at this position, most probable first.
        unconditioned: Whether nothing precedes the token, so that it has no log-probability.
    """

    top: tuple[TopLogprob, ...] = ()
    unconditioned: bool = False


@dataclass(frozen=True)
class OutputDelta:
    """The text that one or more decode steps add to an output.

    Attributes:
        text: New text; may be empty in the last delta.
        completion_tokens: Tokens generated so far, without the end token.
        finish: Finish reason; set in the last delta only.
        logprobs: Log-probabilities of the tokens whose text this delta releases, if requested.
        adapter_version: Digest of the adapter version that the request was bound to when it was
            admitted, or of the composition of several; empty for the base model.
        cached_tokens: Prompt tokens whose keys and values came from the prefix cache.
        prompt_state: ``[F]`` mean state of the prompt at the feature layer, float32; set in the
            first delta of a request that asks for it.
    """

    text: str
    completion_tokens: int
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    adapter_version: str = ""
    cached_tokens: int = 0
    prompt_state: Tensor | None = None


OutputCallback = Callable[[OutputDelta | Exception], None]
"""Receives each delta, or once the error that ends the request, on the engine's thread."""


class RequestHandle:
    """An accepted request.

    Args:
        request: The request.
        on_output: Receiver of the output deltas.

    Attributes:
        arrived_at: Value of ``time.monotonic()`` when the request was accepted.
        cancelled: Whether the caller has cancelled the request.
    """

    def __init__(self, request: GenerationRequest, on_output: OutputCallback) -> None:
        self.request = request
        self.on_output = on_output
        self.arrived_at = time.monotonic()
        self.cancelled = False

    def cancel(self) -> None:
        """Drop the request before the next step; ``on_output`` is not called again."""
        self.cancelled = True
