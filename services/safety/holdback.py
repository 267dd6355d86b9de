"""The hold-back: messages of a stream wait until the text behind theirs is known to be clean."""

from collections import deque
from collections.abc import Iterable, Iterator

from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.redaction import merge_spans

# No e-mail address, key or number is longer; a longer run without a space is let go in pieces.
LONGEST_TOKEN = 320


class HoldBack:
    """Orders a stream's messages and tells which may leave, and what is cut out of them.

    A message may leave when all its text lies at least ``window`` characters before the end of
    what was judged, or when the stream has ended and all of it was judged; never in the middle of
    a span that is cut out, or of a word that may still become one.

    Args:
        window: Characters held back.
        context: Characters before a new piece that are judged with it.
        stride: Characters that a verdict must be able to release to be asked for.
    """

    def __init__(self, window: int, context: int, stride: int) -> None:
        self.text = ""
        self._window = window
        self._context = context
        self._stride = stride
        self._judged = 0
        self._released = 0
        self._asked_from = 0
        self._spans: list[Span] = []
        self._held: deque[tuple[bytes, int]] = deque()

    @property
    def held(self) -> int:
        """Messages that wait."""
        return len(self._held)

    def add(self, raw: bytes, delta: str) -> None:
        """Take in the next message and the text that it adds."""
        self.text += delta
        self._held.append((raw, len(self.text)))

    def unjudged(self, *, ended: bool) -> str:
        """Return what must be judged now, with its context; empty when no verdict is needed yet."""
        releasable = len(self.text) - self._window - self._released
        if self._judged == len(self.text) or (not ended and releasable < self._stride):
            return ""
        self._asked_from = max(0, self._judged - self._context)
        return self.text[self._asked_from :]

    def passed(self, length: int, spans: Iterable[Span] = ()) -> None:
        """Note that the first ``length`` characters are clean but for ``spans``.

        Args:
            length: Of the whole stream's text.
            spans: Offsets in what ``unjudged`` returned last.
        """
        self._judged = length
        moved = [
            Span(s.start + self._asked_from, s.end + self._asked_from, s.label, s.score, s.scorer)
            for s in spans
        ]
        self._spans = merge_spans([*self._spans, *moved])

    def releasable(self, *, ended: bool) -> Iterator[tuple[bytes, int, list[Span]]]:
        """Yield the messages that may leave now, in order.

        Each with the place of its text's beginning, and the spans to cut out, both in the stream.
        """
        limit = self._judged if ended else self._limit()
        while self._held and self._held[0][1] <= limit:
            raw, end = self._held.popleft()
            start, self._released = self._released, end
            yield raw, start, [s for s in self._spans if s.start < end and s.end > start]

    def _limit(self) -> int:
        limit = max(self._judged - self._window, self._released)
        for span in self._spans:
            if span.start < limit < span.end:
                limit = span.start
        if limit < len(self.text) and not self.text[limit].isspace():
            begin = max(self._released, limit - LONGEST_TOKEN)
            word = limit
            while word > begin and not self.text[word - 1].isspace():
                word -= 1
            if word > begin or begin == self._released:
                limit = word
        return max(limit, self._released)
