"""JSON encoding of scoring queries and findings, as they travel to and from a scorer process."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bem_fleet.guard.findings import Finding, ScoringQuery, Span


def encode_query(query: ScoringQuery) -> dict[str, Any]:
    """Return the JSON object of a query."""
    return {**asdict(query), "scorers": sorted(query.scorers)}


def decode_query(fields: Mapping[str, Any]) -> ScoringQuery:
    """Return the query of a JSON object.

    Raises:
        ValueError: A field is missing, unknown or of the wrong type.
    """
    try:
        query = ScoringQuery(**{**fields, "scorers": frozenset(fields["scorers"])})
    except (KeyError, TypeError) as err:
        raise ValueError(f"query: malformed object {str(fields)[:80]}") from err
    texts = (query.text, query.side, query.prompt, *query.scorers)
    flags = (query.complete, query.ended)
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(flag, bool) for flag in flags
    ):
        raise ValueError(f"query: field of the wrong type in {str(fields)[:80]}")
    return query


def encode_finding(finding: Finding) -> dict[str, Any]:
    """Return the JSON object of a finding."""
    return {
        "scores": dict(finding.scores),
        "spans": [[s.start, s.end, s.label, s.score, s.scorer] for s in finding.spans],
    }


def decode_finding(fields: Any) -> Finding:
    """Return the finding of a JSON object.

    Raises:
        ValueError: The object is not a finding, or a score is outside 0 to 1.
    """
    try:
        spans = tuple(Span(*span) for span in fields["spans"])
        scores = {name: float(score) for name, score in fields["scores"].items()}
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError(f"finding: malformed object {str(fields)[:80]}") from err
    if not all(0 <= score <= 1 for score in scores.values()):  # NaN is outside every range
        raise ValueError(f"finding: scores outside 0 to 1: {scores}")
    return Finding(scores, spans)
