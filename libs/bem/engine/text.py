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
        self._received = 0
        # Text of ids[start:seen] is out already; decoding from start keeps blanks between words.
        self._start = 0
        self._seen = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text was met."""
        return self._hold.stopped

    @property
    def received(self) -> int:
        """Characters that the tokens so far give; one more where the last one is incomplete."""
        return self._received + (self._seen < len(self._ids))

    @property
    def released(self) -> int:
        """Characters that are out."""
        return self._hold.released

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
        self._received += len(after) - len(before)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class TokenBytes:
    """Spells single tokens, which need not be whole characters.

    Args:
        tokenizer: Names its tokens; byte-level ones are spelt exactly.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """Return the bytes of one token."""
        if token not in self._known:
            self._known[token] = self._spell(token)
        return self._known[token]

    def _spell(self, token: int) -> bytes:
        name: str = self._tokenizer.convert_ids_to_tokens(token)
        if token not in self._special and all(letter in _BYTES for letter in name):
            return bytes(_BYTES[letter] for letter in name)
        text: str = self._tokenizer.decode([token])
        return text.encode()


def _byte_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level token stands for (as in GPT-2's tokenizer)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_letters()


class StopHold:
    """Lets text through up to the first stop text, holding back what may become one.

    Args:
        stop: The stop texts, none empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.released = 0
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
        self.released += len(released)
        self._held = "" if drop else self._held[count:]
        return released

    def _overlap(self) -> int:
        """Return the length of the longest end of the held text that begins a stop text."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0
