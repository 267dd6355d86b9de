"""Span redaction: merges overlapping spans and replaces them in texts and in parts of texts."""

from collections.abc import Iterable, Sequence

from bem_fleet.guard.findings import Span


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Return the spans sorted and without overlaps.

    Overlapping spans become one span with the label of the one with the highest score.

    Args:
        spans: Spans of one text in any order.
    """
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            best = max(last, span, key=lambda s: s.score)
            end = max(last.end, span.end)
            merged[-1] = Span(last.start, end, best.label, best.score, best.scorer)
        else:
            merged.append(span)
    return merged


def placeholder(span: Span) -> str:
    """Return the text that replaces a redacted span, such as ``[EMAIL_ADDRESS]``."""
    return f"[{span.label}]"


def redact(text: str, spans: Sequence[Span], offset: int = 0) -> str:
    """Return a text with its spans replaced by placeholders.

    The text may be one part of a longer text. A span that straddles two parts leaves one
    placeholder, in the part where it begins. Example: the text ``"mail a@b.c now"`` has the span
    [5, 10) with the label E. Its parts ``"mail a@"`` (offset 0) and ``"b.c now"`` (offset 7) are
    redacted to ``"mail [E]"`` and ``" now"``.

    Args:
        text: The text, or one part of it.
        spans: Sorted spans without overlaps; offsets count from the start of the longer text.
        offset: Offset of ``text`` in the longer text.
    """
    redacted, position = [], offset
    for span in spans:
        if span.end <= offset or span.start >= offset + len(text):
            continue
        redacted.append(text[position - offset : max(span.start, offset) - offset])
        if span.start >= offset:
            redacted.append(placeholder(span))
        position = min(span.end, offset + len(text))
    return "".join([*redacted, text[position - offset :]])
