"""What goes into the engine and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from bem.errors import InvalidRequestError

Finish = Literal["stop", "length"]
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Penalties and bias change the logits first, temperature divides them, then ``top_k`` and
    ``top_p`` keep the likely tokens, in this order.

    Attributes:
        temperature: 0 is greedy; at most 2.
        top_p: Nucleus mass in (0, 1] (arXiv 1904.09751).
        top_k: Keep the k most likely tokens; 0 keeps all.
        seed: Of this request's own random numbers; None draws one.
        presence_penalty: Subtracted once from tokens already generated, in [-2, 2].
        frequency_penalty: Subtracted per occurrence from tokens already generated, in [-2, 2].
        repetition_penalty: Divides positive and multiplies negative logits of tokens that the
            prompt or the answer holds, in (0, 2] (arXiv 1909.05858); 1 changes nothing.
        logit_bias: (token, what is added to its logit), each in [-100, 100], a token once.
        logprobs: Report the log-probability of each token and of the N likeliest, 0 to 20;
            None reports none. They are the model's own, before penalties, bias and temperature.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of an earlier turn that ran with an adapter's code.

    The code is set from the tokens before ``coded_at`` and moves on with each 64 tokens after it,
    as it did when that turn was generated.

    Attributes:
        start: First token that ran with it; tokens before the first segment are the base's.
        coded_at: Tokens of that turn's prompt.
        adapter: Name of a loaded adapter, or None for the base model.
        scale: Factor of its code in [0, 2].
    """

    start: int
    coded_at: int
    adapter: str | None
    scale: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """Asks for text.

    Attributes:
        prompt_ids: Token ids of the rendered prompt, at least one.
        sampling: How tokens are chosen.
        max_tokens: Tokens to generate, at least 1.
        stop: Texts that end generation; they are not part of the answer.
        adapter: Name of a loaded adapter, or None for the base model.
        adapter_scale: Factor of the adapter's code in [0, 2]; 0 is the base model exactly.
        activation: First token of the prompt that runs with the adapter's code, as in activated
            LoRA (arXiv 2504.12397): the tokens before it keep their keys and values.
        former: Adapters that earlier turns ran with, by place, all before ``activation``; what
            they do not cover is the base model's.
        safety_strength: How much of the safety adapter, in [0, 1], before the value head's score of
            the prompt; 0 is the base model exactly. Nothing where no adapter is loaded.
        deadline: Value of ``time.monotonic()`` after which the request is dropped, or None.

    Raises:
        InvalidRequestError: Activation or former segments lie outside the prompt or each other.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    adapter_scale: float = 1.0
    activation: int = 0
    former: tuple[Segment, ...] = ()
    safety_strength: float = 0.0
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.activation <= len(self.prompt_ids):
            raise InvalidRequestError(
                "activation", f"{self.activation} is outside 0 to {len(self.prompt_ids)} tokens"
            )
        at = 0
        for segment in self.former:
            if not at <= segment.start < self.activation:
                raise InvalidRequestError(
                    "former", f"a segment begins at {segment.start}, outside its place in order"
                )
            if not 1 <= segment.coded_at <= len(self.prompt_ids):
                raise InvalidRequestError(
                    "former", f"coded_at {segment.coded_at} is outside 1 to the prompt's length"
                )
            at = segment.start + 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All stretches in order, the request's own adapter last."""
        last = Segment(self.activation, len(self.prompt_ids), self.adapter, self.adapter_scale)
        first = (Segment(0, 1, None),) if self.activation and not self.former else ()
        if self.former and self.former[0].start:
            first = (Segment(0, 1, None),)
        return (*first, *self.former, last)


@dataclass(frozen=True)
class Likely:
    """A token that could have come next.

    Attributes:
        token: Its id.
        text: Its bytes; one character may be spread over several tokens.
        logprob: Natural logarithm of its probability.
    """

    token: int
    text: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob(Likely):
    """A token of the answer.

    Attributes:
        top: The likeliest tokens at its place, likeliest first.
    """

    top: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of an answer.

    Attributes:
        text: New text; may be empty in the last piece.
        completion_tokens: Tokens generated so far, the end token not counted.
        finish: Set in the last piece.
        logprobs: Of the tokens whose text is out with this piece, if asked for.
    """

    text: str
    completion_tokens: int
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


OnPiece = Callable[[Piece | Exception], None]
"""Called on the engine's thread with each piece, or once with the error that ends the request."""


class Ticket:
    """A request that the engine has accepted."""

    def __init__(self, request: GenerationRequest, on_piece: OnPiece) -> None:
        self.request = request
        self.on_piece = on_piece
        self.cancelled = False

    def cancel(self) -> None:
        """Drop the request at the next step; nothing more is called."""
        self.cancelled = True
