"""What a text says beneath its disguise: readings of it in plain letters, with their offsets.

A text is read as it stands, and again with look-alike letters, invisible characters, digits for
letters, spaced-out letters, rot13, base64 and hexadecimal undone, and without other scripts. All of
it is linear in the text, and what decoding adds is bounded; compressed data is never unpacked.
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

# Of one text: decoded blocks, and characters of them all together.
MAX_DECODED, MAX_DECODED_CHARS = 8, 16_384
MAX_DEPTH = 3
# One character may stand for a word (U+FDFA for eighteen letters), never for more.
_MOST_PER_CHARACTER = 18
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LEET_WORD = re.compile(r"[A-Za-z0-9@$!|]+")
_SPACED = re.compile(r"(?<![^\W_])(?:[A-Za-z][ .\-_*]){3,}[A-Za-z](?![^\W_])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :]?){12,}")
_WORD = re.compile(r"[a-z]+")
_OTHER_SCRIPTS = re.compile(r"(?:(?![\x00-\x7f])\w)+")
_COMMON = frozenset(
    """
    the a an of to in and is are was you your i it that this for on with as be or not
    how what who do does can my me we they he she his her by at from have has will if
    all about
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)


@dataclass(frozen=True)
class Reading:
    """A text in plain letters.

    Attributes:
        text: Lower and upper case kept.
        places: For each character the place in the original that it stands for.
        size: Characters of the original.
    """

    text: str
    places: list[int]
    size: int

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where [start, end) of this reading lies in the original."""
        if start >= len(self.places):
            return self.size, self.size
        return self.places[start], self.places[end - 1] + 1


@cache
def _look_alikes() -> dict[str, str]:
    """Return letters that look like an ASCII letter or digit, of Unicode's confusables."""
    raw = files("confusable_homoglyphs").joinpath("confusables.json").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for character, others in json.loads(raw).items():
        if len(character) != 1 or character.isascii():
            continue
        plain = [one["c"] for one in others if len(one["c"]) == 1 and one["c"].isascii()]
        letters = [one for one in plain if one.isalnum()]
        if letters:
            found[character] = letters[0]
    return found


def plain(text: str) -> Reading:
    """Return the text without look-alikes, compatibility forms, marks and invisible characters."""
    if text.isascii():
        return Reading(text, list(range(len(text))), len(text))
    out: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for one in _fold(character):
            out.append(one)
            places.append(place)
    return Reading("".join(out), places, len(text))


@cache
def _fold_uncommon(character: str) -> str:
    look_alikes = _look_alikes()
    folded = unicodedata.normalize("NFKD", look_alikes.get(character, character))
    kept = [one for one in folded if unicodedata.category(one) not in ("Mn", "Me", "Cf", "Cc")]
    return "".join(look_alikes.get(one, one) for one in kept)[:_MOST_PER_CHARACTER]


def _fold(character: str) -> str:
    if character.isascii():
        return character
    # A cache of all of Unicode would be large: what attackers use is a few thousand letters.
    return _fold_uncommon(character)


def readings(text: str) -> list[str]:
    """Return all that the text may say, the plain reading first, none twice.

    What is decoded is read for what it says, and no longer as a row of letters that says nothing.

    Args:
        text: Of any length; what is added to the plain reading is at most three more of its length
            and 16,384 characters of decoded blocks.
    """
    first, decoded = _decoded(plain(text).text, MAX_DEPTH)
    if decoded and not first.strip():
        return list(dict.fromkeys(decoded))
    # Scripts without spaces leave no window to the English between them.
    found = [first, _OTHER_SCRIPTS.sub(" ", first).strip() or first]
    relaxed = _joined(_unleet(first))
    if relaxed != first:
        found.append(relaxed)
    turned = codecs.encode(first, "rot13")
    if _commonness(turned) > max(0.15, 2 * _commonness(first)):
        found.append(turned)
    return list(dict.fromkeys([*found, *decoded]))


def _unleet(text: str) -> str:
    """Undo digits and signs that stand for letters, in words that also have letters."""

    def turn(match: re.Match[str]) -> str:
        word = match[0]
        inner = word.strip("$!|")  # of a sentence or a price
        if inner.isalpha() or not any(one.isalpha() for one in inner):
            return word
        return word.lower().translate(_LEET)

    return _LEET_WORD.sub(turn, text)


def _joined(text: str) -> str:
    """Put words together that are written letter by letter."""
    return _SPACED.sub(lambda match: "".join(one for one in match[0] if one.isalpha()), text)


def _commonness(text: str) -> float:
    """Return the share of the commonest English words among the first hundred words."""
    words = [match[0] for match in islice(_WORD.finditer(text.lower()), 100)]
    return sum(word in _COMMON for word in words) / max(len(words), 4)


def _decoded(text: str, depth: int) -> tuple[str, list[str]]:
    """Return the text without its base64 and hexadecimal blocks, and what those hold.

    Blocks within blocks are decoded too, to ``depth``. What is not decoded, for there may be too
    much of it, stays in the text.
    """
    found: list[str] = []
    rest: list[str] = []
    left, at = MAX_DECODED_CHARS, 0
    for begin, end, block in _blocks(text):
        if len(found) == MAX_DECODED or not left or begin < at:
            continue
        if len(block) <= left:
            rest.append(text[at:begin])
            at = end
        inner, deeper = plain(block[:left]).text, list[str]()
        left = max(0, left - len(block))
        if depth > 1:
            inner, deeper = _decoded(inner, depth - 1)
        found += [one for one in (inner, *deeper) if one.strip()][: MAX_DECODED - len(found)]
    return " ".join([*rest, text[at:]]), found


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield blocks that hold text, in order: where each lies, and its text."""
    found = []
    for match in _BASE64.finditer(text):
        raw = match[0].rstrip("=").translate(str.maketrans("-_", "+/"))
        raw = raw[: len(raw) // 4 * 4 + (len(raw) % 4 if len(raw) % 4 > 1 else 0)]
        with suppress(binascii.Error):
            found += _text(match, base64.b64decode(raw + "=" * (-len(raw) % 4)))
    for match in _HEX.finditer(text):
        digits = re.sub(r"[ :]", "", match[0])
        found += _text(match, bytes.fromhex(digits[: len(digits) // 2 * 2]))
    return iter(sorted(found))


def _text(match: re.Match[str], raw: bytes) -> list[tuple[int, int, str]]:
    """Return the bytes as text, with its place, if that is what they are."""
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        return []
    if found and sum(one.isprintable() or one.isspace() for one in found) >= 0.95 * len(found):
        return [(*match.span(), found)]
    return []
