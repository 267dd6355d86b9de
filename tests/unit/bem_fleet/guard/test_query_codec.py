"""JSON encoding of queries and findings."""

import json
from typing import Any

import pytest
from bem_fleet.guard.findings import Finding, ScoringQuery, Span
from bem_fleet.guard.query_codec import (
    decode_finding,
    decode_query,
    encode_finding,
    encode_query,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(max_size=50), st.text(max_size=50), st.booleans())
def test_queries_survive_the_round_trip(text: str, prompt: str, complete: bool) -> None:
    """Any text, also with lone surrogates and control characters."""
    query = ScoringQuery(text, "response", frozenset(("pii", "secrets")), prompt, complete)

    assert decode_query(json.loads(json.dumps(encode_query(query)))) == query


def test_findings_survive_the_round_trip() -> None:
    """Scores and spans are equal."""
    finding = Finding({"pii": 0.5}, (Span(1, 4, "EMAIL_ADDRESS", 0.5, "pii"),))

    assert decode_finding(json.loads(json.dumps(encode_finding(finding)))) == finding


@pytest.mark.parametrize(
    "fields",
    [{}, [], None, {"scores": {"x": float("nan")}, "spans": []}, {"scores": {"x": 2}, "spans": []}],
)
def test_malformed_findings_are_rejected(fields: Any) -> None:
    """A score outside 0 to 1 is not a finding."""
    with pytest.raises(ValueError, match="finding"):
        decode_finding(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": 1, "side": "response", "scorers": []},
        {"text": "x", "side": "response", "scorers": [1]},
        {"text": "x", "side": "response", "scorers": [], "other": 1},
    ],
)
def test_malformed_queries_are_rejected(fields: Any) -> None:
    """Missing, unknown and mistyped fields are errors."""
    with pytest.raises(ValueError, match="query"):
        decode_query(fields)
