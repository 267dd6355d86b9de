"""What scorers read in a text: scores by name, and the spans that they point at."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """A piece of a text.

    Attributes:
        start: First character.
        end: Behind the last character.
        label: What it is, such as ``EMAIL_ADDRESS``.
        score: How sure its scorer is, 0 to 1.
        scorer: Who points at it.
    """

    start: int
    end: int
    label: str
    score: float
    scorer: str


@dataclass(frozen=True)
class Finding:
    """What was read in one text.

    Attributes:
        scores: By scorer, 0 to 1; only of those that ran.
        spans: In no order; may overlap.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()

    def joined(self, other: "Finding") -> "Finding":
        """Return both together: the higher score, all spans."""
        names = {*self.scores, *other.scores}
        scores = {n: max(self.scores.get(n, 0.0), other.scores.get(n, 0.0)) for n in names}
        return Finding(scores, (*self.spans, *other.spans))


@dataclass(frozen=True)
class Query:
    """One text to read.

    Attributes:
        text: The text.
        on: ``request`` or ``response``.
        wanted: Scorers that should run.
        asked: The request that a response answers; empty where there is none.
        whole: Whether all of a response is there, not the beginning of a stream.
    """

    text: str
    on: str
    wanted: frozenset[str]
    asked: str = ""
    whole: bool = True
