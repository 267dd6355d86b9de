"""Sentence splitter for a text that arrives in parts, with the offset of each sentence.

The sentences of a text are the same however it is divided into parts, so that a session that is
replayed from its journal is the session that was interrupted. Only white space is left out between
them.
"""

import re
from dataclasses import dataclass

MAX_SENTENCE_CHARS = 2_000
"""Characters after which a sentence is cut even without an end."""

# An end is a mark, what closes a quotation, and white space; or a line break.
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019)\]]*\s+|\n+\s*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Gen|Col|Capt|Lt|Sen|Rep|Hon|Jr|Sr|vs|Vol|pp|cf|e\.g|i\.e)"
    r"|\b[A-Z])\.$"
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text, with the white space after it.

    Attributes:
        text: Characters of the sentence.
        begin: Offset of its first character in the session's text.
    """

    text: str
    begin: int

    @property
    def end(self) -> int:
        """Offset after its last character."""
        return self.begin + len(self.text)


class SentenceSplitter:
    """Splits a growing text.

    Args:
        position: Offset at which the text continues.
        pending: Text before ``position`` that is not yet a sentence.

    Attributes:
        pending: Text that waits for the end of its sentence.
        position: Offset after the text so far, in characters.
    """

    def __init__(self, position: int = 0, pending: str = "") -> None:
        self.position, self.pending = position, pending

    def feed(self, text: str) -> list[Sentence]:
        """Add text and return the sentences that it completes."""
        self.position += len(text)
        self.pending += text
        return self._take(final=False)

    def flush(self) -> list[Sentence]:
        """Return what is pending, at the end of a document."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Sentence]:
        pending = self.pending
        start = self.position - len(pending)
        taken: list[Sentence] = []
        at = 0
        while at < len(pending):
            end = _sentence_end(pending, at, final=final)
            if end is None:
                break
            taken.append(Sentence(pending[at:end], start + at))
            at = end
        self.pending = pending[at:]
        return [one for one in taken if one.text.strip()]


def _sentence_end(text: str, at: int, *, final: bool) -> int | None:
    """Return where the sentence at ``at`` ends; None if more text may belong to it."""
    limit = at + MAX_SENTENCE_CHARS
    for match in _END.finditer(text, at, limit):
        # White space at the end of what has arrived may go on, and the limit may cut a match.
        if match.end() == len(text) and not final:
            return None
        before = text[max(at, match.start() - 8) : match.start() + 1]
        if "\n" not in match[0] and _ABBREVIATION.search(before):
            continue
        return match.end()
    if len(text) >= limit:
        space = text.rfind(" ", at + 1, limit)
        return limit if space < 0 else space + 1
    return len(text) if final else None


def split_sentences(text: str) -> list[Sentence]:
    """Return the sentences of a whole text; together they spell it."""
    splitter = SentenceSplitter()
    return [*splitter.feed(text), *splitter.flush()]
