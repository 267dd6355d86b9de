"""What goes into the engine and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy; at most 2.
        top_p: Nucleus mass in (0, 1] (arXiv 1904.09751).
        top_k: Keep the k most likely tokens; 0 keeps all.
        seed: Of this request's own random numbers; None draws one.
        presence_penalty: Subtracted once from tokens already generated, in [-2, 2].
        frequency_penalty: Subtracted per occurrence from tokens already generated, in [-2, 2].
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """Asks for text.

    Attributes:
        prompt_ids: Token ids of the rendered prompt, at least one.
        sampling: How tokens are chosen.
        max_tokens: Tokens to generate, at least 1.
        stop: Texts that end generation; they are not part of the answer.
        skill: Name of a loaded skill, or None for the base model.
        skill_scale: Factor of the skill's code in [0, 2]; 0 is the base model exactly.
        safety_knob: How much of the safety adapter, in [0, 1], before the value head's score of
            the request; 0 is the base model exactly. Nothing where no adapter is loaded.
        deadline: Value of ``time.monotonic()`` after which the request is dropped, or None.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    skill: str | None = None
    skill_scale: float = 1.0
    safety_knob: float = 0.0
    deadline: float | None = None


@dataclass(frozen=True)
class Piece:
    """The next part of an answer.

    Attributes:
        text: New text; may be empty in the last piece.
        completion_tokens: Tokens generated so far, the end token not counted.
        finish: Set in the last piece.
    """

    text: str
    completion_tokens: int
    finish: Finish | None = None


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
