"""Alternatives of tokens: those that would spell what the policy redacts are removed.

A token that the model did not choose is text too: ``sales`` with the alternative ``@`` before
``example.com`` is an address. Each alternative is therefore judged in its place, and the
alternatives of one rank are judged as the text that they spell together.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.services.safety.token_redaction import KeptEntry, layout_of, piece_of, type_of

FindSpans = Callable[[str], Awaitable[list[Span] | None]]
_LEFT_CHARS, _LEFT_WORD_CHARS, _RIGHT_CHARS = 48, 128, 32
# Longer than any entity's inner blanks, so that no finding reaches from one line into the next.
_SEPARATOR = "\n\n"
_MAX_CHARS = 24_000

Alternative = tuple[int, int]
"""Index of the entry, and rank of the alternative in it."""


@dataclass(frozen=True)
class _Line:
    """Text as it would stand with alternatives, and where they stand in it."""

    text: str
    places: tuple[tuple[int, int, Alternative], ...]


async def remove_findings(entries: Sequence[KeptEntry], text: str, find_spans: FindSpans) -> None:
    """Remove the alternatives of entries that would make a finding in their place.

    Args:
        entries: Entries of one text in order.
        text: Original text, from its start.
        find_spans: Returns the spans of a text that are redacted; None if it may not leave at all.
    """
    ranks = [_ranked(entry) for entry in entries]
    lines = [
        line
        for line in (*_substitutions(entries, ranks, text), *_paths(entries, ranks, text))
        if may_contain_sensitive_data(line.text)
    ]
    unjudged = _split_off(lines)
    removed = {alternative for line in unjudged for _, _, alternative in line.places}
    if lines:
        found = await find_spans(_SEPARATOR.join(line.text for line in lines))
        removed |= _touched(lines, found)
    for index, entry in enumerate(entries):
        _drop(entry, {rank for one, rank in removed if one == index})


def _split_off(lines: list[_Line]) -> list[_Line]:
    """Remove from ``lines`` what exceeds the work for one message, and return it."""
    total = 0
    for count, line in enumerate(lines):
        total += len(line.text)
        if total > _MAX_CHARS:
            rest = lines[count:]
            del lines[count:]
            return rest
    return []


def _touched(lines: Sequence[_Line], spans: Sequence[Span] | None) -> set[Alternative]:
    touched, offset = set(), 0
    for line in lines:
        for start, end, alternative in line.places:
            if spans is None or any(
                span.start < offset + end and span.end > offset + start for span in spans
            ):
                touched.add(alternative)
        offset += len(line.text) + len(_SEPARATOR)
    return touched


def _ranked(entry: KeptEntry) -> list[str]:
    """Return the texts of an entry's alternatives, most likely first."""
    return [
        piece_of(one, layout_of(type_of(one)).piece).decode("utf-8", errors="replace")
        for field in entry.layout.alternatives
        for one in getattr(entry.entry, field.name)
    ]


def _drop(entry: KeptEntry, ranks: set[int]) -> None:
    position = 0
    for field in entry.layout.alternatives:
        container = getattr(entry.entry, field.name)
        count = len(container)
        for index in reversed(range(count)):
            if position + index in ranks:
                del container[index]
        position += count


def _left(text: str, start: int) -> str:
    """Return the text before an offset: some words, and all of a long word."""
    left = text[max(0, start - _LEFT_CHARS) : start]
    if any(one.isspace() for one in left):
        return left
    return text[max(0, start - _LEFT_WORD_CHARS) : start]


def _substitutions(
    entries: Sequence[KeptEntry], ranks: Sequence[Sequence[str]], text: str
) -> Iterator[_Line]:
    """Yield each alternative between the text before and behind its token."""
    for index, (entry, texts) in enumerate(zip(entries, ranks, strict=True)):
        left = _left(text, entry.start)
        right = text[entry.end : entry.end + _RIGHT_CHARS]
        chosen = text[entry.start : entry.end]
        for rank, alternative in enumerate(texts):
            if alternative and alternative != chosen:
                end = len(left) + len(alternative)
                yield _Line(left + alternative + right, ((len(left), end, (index, rank)),))


def _paths(
    entries: Sequence[KeptEntry], ranks: Sequence[Sequence[str]], text: str
) -> Iterator[_Line]:
    """Yield the alternatives of each rank as one text, for entries that follow each other."""
    for first, last in _runs(entries):
        for rank in range(max(len(texts) for texts in ranks[first:last])):
            line, places = _left(text, entries[first].start), []
            for index in range(first, last):
                texts = ranks[index]
                if rank < len(texts):
                    places.append((len(line), len(line) + len(texts[rank]), (index, rank)))
                    line += texts[rank]
                else:
                    line += text[entries[index].start : entries[index].end]
            yield _Line(line, tuple(places))


def _runs(entries: Sequence[KeptEntry]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of entries whose texts follow each other without a gap."""
    if not entries:
        return
    first = 0
    for index, (before, after) in enumerate(pairwise(entries), start=1):
        if before.end != after.start:
            yield first, index
            first = index
    yield first, len(entries)
