"""Scoring queries and their results: scores by scorer, and the spans that scorers report."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """Character range of a text that a scorer reports.

    Attributes:
        start: Offset of the first character.
        end: Offset behind the last character.
        label: Entity type, such as ``EMAIL_ADDRESS``.
        score: Confidence of the scorer, 0 to 1.
        scorer: Name of the scorer.
    """

    start: int
    end: int
    label: str
    score: float
    scorer: str


@dataclass(frozen=True)
class Finding:
    """Result of scoring one text.

    Attributes:
        scores: Score by scorer, 0 to 1; only scorers that ran are present.
        spans: Reported spans, unordered; they may overlap.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()

    def merge(self, other: "Finding") -> "Finding":
        """Return the union of two findings: the higher score of each scorer, and all spans."""
        names = {*self.scores, *other.scores}
        scores = {n: max(self.scores.get(n, 0.0), other.scores.get(n, 0.0)) for n in names}
        return Finding(scores, (*self.spans, *other.spans))


@dataclass(frozen=True)
class ScoringQuery:
    """Request to score one text.

    Attributes:
        text: The text.
        side: ``request`` or ``response``.
        scorers: Names of the scorers to run.
        prompt: Request that a response answers; empty if there is none.
        complete: Whether ``text`` is a complete response and not the prefix of a stream.
        ended: Whether the response ends where ``text`` ends.
    """

    text: str
    side: str
    scorers: frozenset[str]
    prompt: str = ""
    complete: bool = True
    ended: bool = True
