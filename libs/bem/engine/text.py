"""From tokens to text that may leave: whole characters, and never a part of a stop text."""

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"
# Longest run of tokens that can belong to one character of four bytes.
_LONGEST_CHARACTER = 4


class TextAssembler:
    """Turns one request's tokens into pieces of text.

    Args:
        tokenizer: Decodes ids.
        stop: Texts that end the answer.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._hold = StopHold(stop)
        self._ids: list[int] = []
        # Text of ids[start:seen] is out already; decoding from start keeps blanks between words.
        self._start = 0
        self._seen = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text was met."""
        return self._hold.stopped

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now."""
        self._ids.append(token)
        return self._hold.push(self._advance(final=False))

    def finish(self) -> str:
        """Return what was held back; an incomplete character becomes U+FFFD."""
        return self._hold.push(self._advance(final=True)) + self._hold.finish()

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._seen])
        after = self._decode(self._ids[self._start :])
        waiting = len(self._ids) - self._seen
        if not final and after.endswith(_INCOMPLETE) and waiting <= _LONGEST_CHARACTER:
            return ""
        self._start, self._seen = self._seen, len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class StopHold:
    """Lets text through up to the first stop text, holding back what may become one.

    Args:
        stop: The stop texts, none empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text and return what can no longer belong to a stop text."""
        if self.stopped:
            return ""
        self._held += text
        cuts = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if cuts:
            self.stopped = True
            return self._release(min(cuts), drop=True)
        return self._release(len(self._held) - self._overlap(), drop=False)

    def finish(self) -> str:
        """Return what is still held: it was no stop text after all."""
        return "" if self.stopped else self._release(len(self._held), drop=False)

    def _release(self, count: int, *, drop: bool) -> str:
        released = self._held[:count]
        self._held = "" if drop else self._held[count:]
        return released

    def _overlap(self) -> int:
        """Return the length of the longest end of the held text that begins a stop text."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0
