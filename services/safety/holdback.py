"""Hold-back buffer of a stream: messages wait until the text behind theirs is evaluated."""

from collections import deque
from collections.abc import Iterable, Iterator

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.secret_patterns import recognisable_end
from bem_fleet.guard.spans import merge_spans

# Longer than any e-mail address, key or number; a longer run without a space is released in parts.
MAX_TOKEN_CHARS = 320
_BETWEEN_ANSWERS = "\n\n"


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
        text: Text of the stream so far, with the texts that it continues.
        spans: Redacted spans of the text, sorted and without overlaps.
    """

    def __init__(self, window: int, context: int, stride: int) -> None:
        self.text = ""
        self.spans: list[Span] = []
        self._window = window
        self._context = context
        self._stride = stride
        self._evaluated = 0
        self._released = 0
        # Where the present answer and the text that it continues begin.
        self._origin = 0
        self._preceding_start = 0
        # Ranges of the text that the last evaluation read, and the findings that reached its end.
        self._segments: list[tuple[int, int]] = []
        self._growing: Span | None = None
        self._held: deque[tuple[bytes, int]] = deque()

    @property
    def pending_count(self) -> int:
        """Number of messages in the buffer."""
        return len(self._held)

    @property
    def origin(self) -> int:
        """Offset in ``text`` of the present answer."""
        return self._origin

    @property
    def preceding_chars(self) -> int:
        """Characters of the last evaluated text that the answer continues and did not write."""
        return sum(max(0, min(end, self._origin) - start) for start, end in self._segments)

    @property
    def is_whole(self) -> bool:
        """Whether the last evaluated text was the whole answer."""
        return self._segments == [(self._preceding_start, len(self.text))]

    def start(self, preceding: str) -> None:
        """Begin an answer that continues ``preceding``, which is evaluated and never released.

        Args:
            preceding: End of the text that the answer continues; empty for none.
        """
        if self._held or self._evaluated < len(self.text):
            return  # the answers before are not released: all are evaluated as one text
        if self.text:
            self.text += _BETWEEN_ANSWERS
        self._preceding_start = len(self.text)
        self.text += preceding
        self._origin = self._evaluated = self._released = len(self.text)
        self._growing = None

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
        start = self._evaluated - self._context
        if start < self._origin:
            start = self._preceding_start
        self._segments = [(start, len(self.text))]
        growing = self._growing
        if growing is not None and growing.start < start:
            head_end = recognisable_end(self.text, growing.start, start)
            self._segments.insert(0, (growing.start, head_end))
        return "".join(self.text[first:last] for first, last in self._segments)

    def mark_evaluated(self, length: int, spans: Iterable[Span] = ()) -> None:
        """Record that the first ``length`` characters may pass, with ``spans`` redacted.

        Args:
            length: Characters from the start of the stream's text.
            spans: Spans with offsets in the last result of ``text_to_evaluate``.
        """
        self._evaluated = length
        self._growing = None
        # What is released stays as it is; a finding that began in it is cut from here on.
        earliest = max(self._origin, self._released)
        found = []
        for span in spans:
            start, end = self._place(span.start), self._place(span.end - 1) + 1
            if end >= length and (self._growing is None or start < self._growing.start):
                self._growing = Span(start, end, span.label, span.score, span.scorer)
            if end > earliest:
                found.append(Span(max(start, earliest), end, span.label, span.score, span.scorer))
        self.spans = merge_spans([*self.spans, *found])

    def _place(self, offset: int) -> int:
        """Return the offset in ``text`` of an offset in the evaluated text."""
        for start, end in self._segments:
            if offset < end - start:
                return start + offset
            offset -= end - start
        return self._segments[-1][1] if self._segments else offset

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
            yield raw, start, [s for s in self.spans if s.start < end and s.end > start]

    def _limit(self) -> int:
        """Return the offset up to which messages may be released before the end of the stream."""
        limit = max(self._evaluated - self._window, self._released)
        for span in self.spans:
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
