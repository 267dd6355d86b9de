"""Hold-back buffer of a stream: messages wait until the text behind theirs is evaluated."""

from collections import deque
from collections.abc import Iterable, Iterator

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import merge_spans

# Longer than any e-mail address, key or number; a longer run without a space is released in parts.
MAX_TOKEN_CHARS = 320


class HoldBack:
    """Orders a stream's messages and decides which may be released, with which spans redacted.

    A message may be released when all its text lies at least ``window`` characters before the end
    of the evaluated text, or when the stream has ended and all its text is evaluated. The limit
    moves back to the start of a redacted span or of a word that may still become one.

    Example: the window is 4 and "my mail is a" (12 characters) is evaluated. The limit is 8, the
    start of the word "is", so messages up to "my mail " may be released. When "@b.c" follows, the
    "a" is still in the buffer, and the whole address becomes one span.

    Args:
        window: Characters held back.
        context: Characters before new text that are evaluated with it.
        stride: Characters that an evaluation must be able to release.

    Attributes:
        text: Text of the stream so far.
    """

    def __init__(self, window: int, context: int, stride: int) -> None:
        self.text = ""
        self._window = window
        self._context = context
        self._stride = stride
        self._evaluated = 0
        self._released = 0
        self._context_start = 0
        self._spans: list[Span] = []
        self._held: deque[tuple[bytes, int]] = deque()

    @property
    def pending_count(self) -> int:
        """Number of messages in the buffer."""
        return len(self._held)

    def add(self, raw: bytes, delta: str) -> None:
        """Append the next message and its text.

        Args:
            raw: Serialized message.
            delta: Text that the message adds to the stream.
        """
        self.text += delta
        self._held.append((raw, len(self.text)))

    def text_to_evaluate(self, *, ended: bool) -> str:
        """Return the text to evaluate now, with its context; empty if none is needed yet.

        Args:
            ended: Whether no more text follows.
        """
        releasable = len(self.text) - self._window - self._released
        if self._evaluated == len(self.text) or (not ended and releasable < self._stride):
            return ""
        self._context_start = max(0, self._evaluated - self._context)
        return self.text[self._context_start :]

    def mark_evaluated(self, length: int, spans: Iterable[Span] = ()) -> None:
        """Record that the first ``length`` characters may pass, with ``spans`` redacted.

        Args:
            length: Characters from the start of the stream's text.
            spans: Spans with offsets in the last result of ``text_to_evaluate``.
        """
        self._evaluated = length
        start = self._context_start
        moved = [Span(s.start + start, s.end + start, s.label, s.score, s.scorer) for s in spans]
        self._spans = merge_spans([*self._spans, *moved])

    def release(self, *, ended: bool) -> Iterator[tuple[bytes, int, list[Span]]]:
        """Remove and yield the messages that may be released now, in order.

        Args:
            ended: Whether the stream has ended.

        Yields:
            Serialized message, offset of its text in the stream, and the spans to redact, with
            offsets in the stream.
        """
        limit = self._evaluated if ended else self._limit()
        while self._held and self._held[0][1] <= limit:
            raw, end = self._held.popleft()
            start, self._released = self._released, end
            yield raw, start, [s for s in self._spans if s.start < end and s.end > start]

    def _limit(self) -> int:
        """Return the offset up to which messages may be released before the end of the stream."""
        limit = max(self._evaluated - self._window, self._released)
        for span in self._spans:
            if span.start < limit < span.end:
                limit = span.start
        # Inside a word: an unfinished address or key is no span yet, so the word waits as a whole
        # unless it is longer than any of them.
        if limit < len(self.text) and not self.text[limit].isspace():
            earliest = max(self._released, limit - MAX_TOKEN_CHARS)
            word_start = limit
            while word_start > earliest and not self.text[word_start - 1].isspace():
                word_start -= 1
            if word_start > earliest or earliest == self._released:
                limit = word_start
        return max(limit, self._released)
