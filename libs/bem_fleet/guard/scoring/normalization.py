"""Deobfuscation of text: look-alikes, leetspeak, spaced letters, ciphers, encodings and wrappings.

A text is scored as it is and in decoded variants. The work is linear in the length of the text,
decoded content is bounded, and compressed data is never decompressed.
"""

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice

from bem_fleet.guard.scoring.english import MIN_SEGMENTED, is_word, segment
from bem_fleet.guard.scoring.leetspeak import undo_leetspeak
from bem_fleet.guard.scoring.wrappings import unwrap

# Limits for one text: decoded blocks, and characters of all decoded blocks together.
MAX_DECODED, MAX_DECODED_CHARS = 8, 16_384
MAX_DEPTH = 3
# One character may expand to a word (U+FDFA to eighteen letters), never to more.
_MAX_EXPANSION = 18
# ANSI escape sequences (ECMA-48 control sequences, operating system commands) and control
# characters that are no white space.
_INVISIBLE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|\x1b\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)"
    r"|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
_LONG_WORD = re.compile(rf"[A-Za-z]{{{MIN_SEGMENTED},}}")
# Letters with one to four separators between them; two or more separate words.
_SPACED_LETTERS = re.compile(
    r"(?<![^\W_])(?:[A-Za-z0-9@$!][ .\-_*]{1,4}){3,}[A-Za-z0-9@$!](?![^\W_])"
)
_WORD_GAP = re.compile(r"[ .\-_*]{2,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :]?){12,}")
_WORD = re.compile(r"[a-z]+")
# Below this share of very common words a text is not plain English, and may be enciphered.
_ENGLISH_SHARE = 0.08
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHIFTS = tuple(
    str.maketrans(
        _LETTERS + _LETTERS.upper(),
        _LETTERS[n:] + _LETTERS[:n] + _LETTERS[n:].upper() + _LETTERS[:n].upper(),
    )
    for n in range(1, 26)
)
_NON_ASCII_WORD = re.compile(r"(?:(?![\x00-\x7f])\w)+")
_COMMON_WORDS = frozenset(
    """
    the a an of to in and is are was you your i it that this for on with as be or not
    how what who do does can my me we they he she his her by at from have has will if
    all about
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)


@dataclass(frozen=True)
class FoldedText:
    """Text with confusable characters folded to ASCII, and the mapping to the original.

    Attributes:
        text: Folded text; case is preserved.
        offsets: Offset in the original of each folded character, in ascending order.
        original_length: Characters of the original.
    """

    text: str
    offsets: list[int]
    original_length: int

    def original_range(self, start: int, end: int) -> tuple[int, int]:
        """Return the range of the original that the folded range [start, end) comes from."""
        if start >= len(self.offsets):
            return self.original_length, self.original_length
        return self.offsets[start], self.offsets[end - 1] + 1


@cache
def _confusables() -> dict[str, str]:
    """Return the Unicode confusables of ASCII letters and digits, by character."""
    raw = files("confusable_homoglyphs").joinpath("confusables.json").read_text(encoding="utf-8")
    table: dict[str, str] = {}
    for character, entries in json.loads(raw).items():
        if len(character) != 1 or character.isascii():
            continue
        targets = [entry["c"] for entry in entries if len(entry["c"]) == 1]
        alphanumeric = [target for target in targets if target.isascii() and target.isalnum()]
        if alphanumeric:
            table[character] = alphanumeric[0]
    return table


def fold_confusables(text: str) -> FoldedText:
    """Fold look-alikes and compatibility forms to ASCII; drop marks and invisible characters.

    Control characters and the escape sequences of terminals are invisible too: a word that is
    coloured letter by letter is that word.
    """
    invisible = {at for match in _INVISIBLE.finditer(text) for at in range(*match.span())}
    if text.isascii() and not invisible:
        return FoldedText(text, list(range(len(text))), len(text))
    folded: list[str] = []
    offsets: list[int] = []
    for offset, character in enumerate(text):
        if offset in invisible:
            continue
        for replacement in _fold_character(character):
            folded.append(replacement)
            offsets.append(offset)
    return FoldedText("".join(folded), offsets, len(text))


# Unbounded, but only characters that occur in requests enter it: a few thousand in practice.
@cache
def _fold_non_ascii(character: str) -> str:
    table = _confusables()
    decomposed = unicodedata.normalize("NFKD", table.get(character, character))
    kept = [one for one in decomposed if unicodedata.category(one) not in ("Mn", "Me", "Cf", "Cc")]
    return "".join(table.get(one, one) for one in kept)[:_MAX_EXPANSION]


def _fold_character(character: str) -> str:
    return character if character.isascii() else _fold_non_ascii(character)


def decode_variants(text: str) -> list[str]:
    """Return the distinct readable variants of a text, the folded text first.

    Encoded blocks are decoded and removed from the folded text: as letters they mean nothing.
    Example: ``"decode d3JpdGUgYSBwb2Vt now"`` gives ``"decode   now"`` and ``"write a poem"``.

    Args:
        text: Text of any length. The variants add at most three times the length of the folded
            text, and 16,384 characters of decoded blocks.
    """
    folded, decoded = _decode_blocks(fold_confusables(text).text, MAX_DEPTH)
    if decoded and not folded.strip():
        return list(dict.fromkeys(decoded))
    # Scripts without spaces would join all English between them into a single window.
    variants = [folded, _NON_ASCII_WORD.sub(" ", folded).strip() or folded, *unwrap(folded)]
    relaxed = [_relax(one) for one in variants]
    # Copies that differ by the case of their letters only would be scored twice.
    readings = {one.lower(): one for one in reversed([*variants, *relaxed])}
    kept = [one for one in dict.fromkeys([*variants, *relaxed]) if readings[one.lower()] == one]
    return list(dict.fromkeys([*kept, *_deciphered(folded), *decoded]))


def whole_readings(text: str) -> list[str]:
    """Return the readings of a text as a whole: folded, relaxed, and deciphered if it is a cipher.

    Unlike ``decode_variants`` none is a part of it that was encoded or wrapped.
    """
    folded = fold_confusables(text).text
    return [folded, _relax(folded), *_deciphered(folded)]


def _relax(text: str) -> str:
    """Return the text with its spaced letters joined, leetspeak undone and words separated."""
    return _segment_words(undo_leetspeak(_join_spaced_letters(text)))


def _deciphered(text: str) -> list[str]:
    """Return the text reversed or with its letters shifted, where that makes it English."""
    share = _common_word_share(text)
    candidates = [text[::-1]]
    if share < _ENGLISH_SHARE:
        candidates += [text.translate(table) for table in _SHIFTS]
    best = max(candidates, key=_common_word_share)
    return [best] if _common_word_share(best) > max(0.15, 2 * share) else []


def _segment_words(text: str) -> str:
    """Separate the words of letters that are written without spaces."""

    def replace(match: re.Match[str]) -> str:
        return match[0] if is_word(match[0].lower()) else segment(match[0])

    return _LONG_WORD.sub(replace, text)


def _join_spaced_letters(text: str) -> str:
    """Join words that are written letter by letter."""

    def join(match: re.Match[str]) -> str:
        letters = sum(one.isalpha() for one in match[0])
        if 2 * letters < sum(one.isalnum() for one in match[0]):
            return match[0]  # a list of numbers
        words = _WORD_GAP.split(match[0])
        return " ".join("".join(c for c in word if c not in " .-_*") for word in words)

    return _SPACED_LETTERS.sub(join, text)


def _common_word_share(text: str) -> float:
    """Return the share of very common English words among the first hundred words."""
    words = [match[0] for match in islice(_WORD.finditer(text.lower()), 100)]
    return sum(word in _COMMON_WORDS for word in words) / max(len(words), 4)


def _decode_blocks(text: str, depth: int) -> tuple[str, list[str]]:
    """Return the text without its base64 and hexadecimal blocks, and the decoded blocks.

    Nested blocks are decoded to ``depth``. Blocks beyond the limits stay in the text.
    """
    decoded: list[str] = []
    remaining_text: list[str] = []
    budget, position = MAX_DECODED_CHARS, 0
    for start, end, block in _find_encoded_blocks(text):
        if len(decoded) == MAX_DECODED or not budget or start < position:
            continue
        if len(block) <= budget:
            remaining_text.append(text[position:start])
            position = end
        inner, nested = fold_confusables(block[:budget]).text, list[str]()
        budget = max(0, budget - len(block))
        if depth > 1:
            inner, nested = _decode_blocks(inner, depth - 1)
        readable = [part for part in (inner, *nested) if part.strip()]
        decoded += readable[: MAX_DECODED - len(decoded)]
    return " ".join([*remaining_text, text[position:]]), decoded


def _find_encoded_blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, decoded text) of encoded blocks that hold text, in order."""
    blocks = []
    for match in _BASE64.finditer(text):
        raw = match[0].rstrip("=").translate(str.maketrans("-_", "+/"))
        # A last group of one character encodes no byte: it belongs to the text behind the block.
        raw = raw[: len(raw) // 4 * 4 + (len(raw) % 4 if len(raw) % 4 > 1 else 0)]
        with suppress(binascii.Error):
            blocks += _as_text_block(match, base64.b64decode(raw + "=" * (-len(raw) % 4)))
    for match in _HEX.finditer(text):
        digits = re.sub(r"[ :]", "", match[0])
        blocks += _as_text_block(match, bytes.fromhex(digits[: len(digits) // 2 * 2]))
    return iter(sorted(blocks))


def _as_text_block(match: re.Match[str], raw: bytes) -> list[tuple[int, int, str]]:
    """Return the block if its bytes are printable UTF-8 text, else nothing."""
    try:
        block = raw.decode()
    except UnicodeDecodeError:
        return []
    if block and sum(one.isprintable() or one.isspace() for one in block) >= 0.95 * len(block):
        return [(*match.span(), block)]
    return []
