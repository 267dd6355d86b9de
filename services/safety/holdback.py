"""The hold-back: messages of a stream wait until the text behind theirs is known to be clean."""

from collections import deque
from collections.abc import Iterator


class HoldBack:
    """Orders a stream's messages and tells which may leave.

    A message may leave when all its text lies at least ``window`` characters before the end of
    what was judged, or when the stream has ended and all of it was judged.

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
        return self.text[max(0, self._judged - self._context) :]

    def passed(self, length: int) -> None:
        """Note that the first ``length`` characters are clean."""
        self._judged = length

    def releasable(self, *, ended: bool) -> Iterator[bytes]:
        """Yield the messages that may leave now, in order."""
        limit = self._judged if ended else max(self._judged - self._window, self._released)
        while self._held and self._held[0][1] <= limit:
            raw, end = self._held.popleft()
            self._released = end
            yield raw
