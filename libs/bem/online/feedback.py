"""Feedback examples: what the learner is taught, as token ids."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bem.errors import DataFormatError

FeedbackKind = Literal["correction", "good", "bad"]
KINDS: tuple[FeedbackKind, ...] = ("correction", "good", "bad")
"""A corrected reply to learn; a reply that a user rated good; one that a user rated bad."""
MAX_WEIGHT = 16.0
MAX_TOKENS = 8192
_MAX_NAME = 256


@dataclass(frozen=True)
class FeedbackExample:
    """One accepted feedback event.

    Attributes:
        event: Unique id, made by the server: a client that chose it could choose what the replay
            buffer keeps.
        condition: Condition of the codebook that it teaches.
        user: Pseudonym of the user.
        prompt: Token ids of the prompt in the chat template.
        reply: Token ids of the reply with its end of turn.
        kind: One of ``KINDS``.
        weight: Trust in the event, in (0, 16].
        hinted: Token ids of the prompt with the correction as a hint in it; empty without one.
    """

    event: str
    condition: str
    user: str
    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    kind: FeedbackKind = "correction"
    weight: float = 1.0
    hinted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            DataFormatError: A field is out of its range.
        """
        for name in ("event", "condition", "user"):
            if not 1 <= len(getattr(self, name)) <= _MAX_NAME:
                raise DataFormatError(f"feedback: {name}: must have 1 to {_MAX_NAME} characters")
        if self.kind not in KINDS:
            raise DataFormatError(
                f"feedback: kind: {self.kind!r} is unknown; use {', '.join(KINDS)}"
            )
        if not 0 < self.weight <= MAX_WEIGHT:
            raise DataFormatError(
                f"feedback: weight: {self.weight} is not above 0 and at most {MAX_WEIGHT:g}"
            )
        for name in ("prompt", "reply"):
            if not 1 <= len(getattr(self, name)) <= MAX_TOKENS:
                raise DataFormatError(f"feedback: {name}: must have 1 to {MAX_TOKENS} tokens")
        if len(self.hinted) > MAX_TOKENS:
            raise DataFormatError(f"feedback: hinted: must have at most {MAX_TOKENS} tokens")

    def row(self) -> dict[str, Any]:
        """Return the example as a JSON object."""
        ids = {name: list(getattr(self, name)) for name in ("prompt", "reply", "hinted")}
        return {**asdict(self), **ids}


def parse_feedback(row: Any) -> FeedbackExample:
    """Return the example of a JSON object, the inverse of ``FeedbackExample.row``.

    Raises:
        DataFormatError: A field is missing, unknown or malformed.
    """
    try:
        ids = {name: tuple(map(int, row[name])) for name in ("prompt", "reply", "hinted")}
        return FeedbackExample(**{**row, **ids, "weight": float(row["weight"])})
    except (TypeError, KeyError, ValueError) as err:
        raise DataFormatError(f"feedback: {str(row)[:80]!r} is no feedback: {err}") from err
