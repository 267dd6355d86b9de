"""Span redaction: merging of spans, and redaction of texts and of parts of texts."""

from itertools import pairwise

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import merge_spans, redact
from hypothesis import given
from hypothesis import strategies as st

SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 10)).map(
        lambda pair: Span(pair[0], pair[0] + pair[1], "X", 0.5, "pii")
    ),
    max_size=6,
)


@given(text=st.text(min_size=60, max_size=60), spans=SPANS, positions=st.sets(st.integers(1, 59)))
def test_redacted_parts_join_to_the_redacted_text(
    text: str, spans: list[Span], positions: set[int]
) -> None:
    """Wherever a text is split, its redacted parts join to the redacted text."""
    merged = merge_spans(spans)
    bounds = [0, *sorted(positions), len(text)]
    parts = [redact(text[start:end], merged, start) for start, end in pairwise(bounds)]

    assert "".join(parts) == redact(text, merged)


@given(text=st.text(min_size=60, max_size=60), spans=SPANS)
def test_text_outside_the_spans_is_unchanged(text: str, spans: list[Span]) -> None:
    """A redacted text has the characters outside the spans, and one placeholder per span."""
    merged = merge_spans(spans)
    inside = {position for span in spans for position in range(span.start, span.end)}
    kept = "".join(one for position, one in enumerate(text) if position not in inside)

    assert redact(text, merged).replace("[X]", "") == kept.replace("[X]", "")
    assert all(a.end <= b.start for a, b in pairwise(merged))


def test_highest_score_of_overlapping_spans_gives_the_label() -> None:
    """Two detections of the same digits become one span with the more confident label."""
    phone, card = Span(2, 9, "PHONE", 0.4, "pii"), Span(5, 12, "CARD", 1.0, "pii")

    assert merge_spans([card, phone]) == [Span(2, 12, "CARD", 1.0, "pii")]
