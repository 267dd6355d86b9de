"""Deobfuscation of text: confusables, invisible characters, leetspeak, rot13, base64, hexadecimal.

A text is scored as it is and in decoded variants. The work is linear in the length of the text,
decoded content is bounded, and compressed data is never decompressed.
"""

import base64
import binascii
import codecs
import json
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice

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
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LEET_WORD = re.compile(r"[A-Za-z0-9@$!|]+")
_SPACED_LETTERS = re.compile(r"(?<![^\W_])(?:[A-Za-z][ .\-_*]){3,}[A-Za-z](?![^\W_])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :]?){12,}")
_WORD = re.compile(r"[a-z]+")
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
    variants = [folded, _NON_ASCII_WORD.sub(" ", folded).strip() or folded]
    relaxed = _join_spaced_letters(_undo_leetspeak(folded))
    if relaxed != folded:
        variants.append(relaxed)
    rotated = codecs.encode(folded, "rot13")
    if _common_word_share(rotated) > max(0.15, 2 * _common_word_share(folded)):
        variants.append(rotated)
    return list(dict.fromkeys([*variants, *decoded]))


def _undo_leetspeak(text: str) -> str:
    """Replace digits and signs by letters in words that also contain letters."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        inner = word.strip("$!|")  # a price, or the end of a sentence
        if inner.isalpha() or not any(one.isalpha() for one in inner):
            return word
        return word.lower().translate(_LEET)

    return _LEET_WORD.sub(replace, text)


def _join_spaced_letters(text: str) -> str:
    """Join words that are written letter by letter."""
    return _SPACED_LETTERS.sub(lambda match: "".join(c for c in match[0] if c.isalpha()), text)


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
