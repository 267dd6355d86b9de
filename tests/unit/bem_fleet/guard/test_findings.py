"""Findings: merging of results."""

from bem_fleet.guard.findings import Finding, Span


def test_merge_keeps_the_higher_score_and_all_spans() -> None:
    """Scorers of either finding are present in the result."""
    span = Span(0, 3, "X", 0.5, "pii")
    merged = Finding({"pii": 0.5, "harm": 0.1}, (span,)).merge(Finding({"harm": 0.9}))

    assert merged == Finding({"pii": 0.5, "harm": 0.9}, (span,))
