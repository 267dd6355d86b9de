"""Incremental detokenizer: whole characters only, and never a part of a stop string."""

import re
from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
# Longest run of tokens that can belong to one character of four bytes.
_MAX_CHARACTER_TOKENS = 4
# SentencePiece writes a space as this letter, and a byte without a token as ``<0x0A>``.
_SPACE_MARK = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """Decodes the tokens of one request to text as they arrive.

    Args:
        tokenizer: Tokenizer of the model.
        stop: Stop strings.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop_buffer = StopStringBuffer(stop)
        self._ids: list[int] = []
        self._received = 0
        # The text of ids[start:decoded] is out already. Decoding begins at start, because a
        # tokenizer drops the blank before the first word that it decodes.
        self._start = 0
        self._decoded = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string occurred."""
        return self._stop_buffer.stopped

    @property
    def received_characters(self) -> int:
        """Characters of all tokens so far; an incomplete last character counts as one."""
        return self._received + (self._decoded < len(self._ids))

    @property
    def released_characters(self) -> int:
        """Characters returned so far."""
        return self._stop_buffer.released

    def push(self, token: int, *, can_stop: bool = True) -> str:
        """Add a token and return the text that is certain now.

        Args:
            token: Token id.
            can_stop: Whether a stop string in the token's text counts.
        """
        self._ids.append(token)
        return self._stop_buffer.push(self._decode_new(final=False), can_stop=can_stop)

    def finish(self) -> str:
        """Return the remaining text; an incomplete character becomes U+FFFD."""
        return self._stop_buffer.push(self._decode_new(final=True)) + self._stop_buffer.finish()

    def _decode_new(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._decoded])
        after = self._decode(self._ids[self._start :])
        pending = len(self._ids) - self._decoded
        if not final and after.endswith(_REPLACEMENT) and pending <= _MAX_CHARACTER_TOKENS:
            return ""
        self._start, self._decoded = self._decoded, len(self._ids)
        self._received += len(after) - len(before)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class TokenBytes:
    """Maps token ids to bytes; a token need not be a whole character.

    Args:
        tokenizer: Tokenizer of the model; the bytes of byte-level tokens are exact.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, Any] = dict(tokenizer.added_tokens_decoder)
        decoder = str(tokenizer.backend_tokenizer.decoder)
        self._byte_level = "ByteLevel" in decoder
        self._marks_spaces = _SPACE_MARK in decoder or "Metaspace" in decoder
        self._bytes: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """Return the bytes of one token."""
        if token not in self._bytes:
            self._bytes[token] = self._encode(token)
        return self._bytes[token]

    def _encode(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token].content).encode()
        name: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:  # a row of the output matrix that the vocabulary does not use
            return b""
        if self._byte_level and all(letter in _BYTE_OF_LETTER for letter in name):
            return bytes(_BYTE_OF_LETTER[letter] for letter in name)
        if fallback := _BYTE_TOKEN.fullmatch(name):
            return bytes([int(fallback[1], 16)])
        if self._marks_spaces:  # decode() would drop the space before a first word
            return name.replace(_SPACE_MARK, " ").encode()
        text: str = self._tokenizer.decode([token])
        return text.encode()


def _byte_of_letter() -> dict[str, int]:
    """Return the byte of each letter of a byte-level token, as in GPT-2's tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()


class StopStringBuffer:
    """Releases text up to the first stop string and buffers what may become one.

    Args:
        stop: Stop strings, none empty.

    Attributes:
        released: Characters released so far.
        stopped: Whether a stop string occurred.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._buffer = ""
        self.released = 0
        self.stopped = False

    def push(self, text: str, *, can_stop: bool = True) -> str:
        """Add text and return what can no longer belong to a stop string.

        Args:
            text: Text that follows the text of earlier calls.
            can_stop: Whether stop strings in the text count; if not, all text is returned.
        """
        if self.stopped:
            return ""
        self._buffer += text
        if not can_stop:
            return self._release(len(self._buffer), drop=True)
        starts = [at for stop in self._stop if (at := self._buffer.find(stop)) >= 0]
        if starts:
            self.stopped = True
            return self._release(min(starts), drop=True)
        return self._release(len(self._buffer) - self._overlap(), drop=False)

    def finish(self) -> str:
        """Return the buffered text, which did not become a stop string."""
        return "" if self.stopped else self._release(len(self._buffer), drop=False)

    def _release(self, count: int, *, drop: bool) -> str:
        released = self._buffer[:count]
        self.released += len(released)
        self._buffer = "" if drop else self._buffer[count:]
        return released

    def _overlap(self) -> int:
        """Return the length of the longest suffix of the buffer that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self._buffer)), 0, -1):
            if any(stop.startswith(self._buffer[-size:]) for stop in self._stop):
                return size
        return 0
