"""Surface scrambles of texts: typing errors by keyboard neighbours, case and whitespace.

Each takes a rate, which is the share of words (or gaps) that change, and a generator. The choice of
places is vectorised over the words of a text. Lengths: ``substitute``, ``transpose`` and case keep
the length; ``insert`` and ``repeat`` add a character a word, ``drop`` removes one.
"""

import re
from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from bem_fleet.data.scrambles.scrambled_text import ScrambledText, replace_pieces

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Horizontal offset of each row of keys, in keys.
_SHIFTS = (0.0, 0.25, 0.75)
MIN_LETTERS = 3
"""Letters of the shortest word that gets a typing error."""

_PARTS = re.compile(r"[^\W\d_]+|\s+|[^\s\w]+|[\d_]+|\w")
_SPACES = (" ", "  ", "\t", "\n")

Edit = Callable[[str, int, np.random.Generator], str]
"""Function from a word and a place in it to the mistyped word."""


def _neighbours() -> dict[str, str]:
    places = {
        key: (row, column + _SHIFTS[row])
        for row, keys in enumerate(_ROWS)
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (r, c) in places.items()
            if other != key and abs(r - row) <= 1 and abs(c - column) <= 1
        )
        for key, (row, column) in places.items()
    }


NEIGHBOURS = MappingProxyType(_neighbours())
"""Keys beside each key of the QWERTY layout, lower case; the relation is symmetric."""


def _neighbour(letter: str, rng: np.random.Generator) -> str:
    """Return a key beside a letter in its case; letters of no key stay."""
    keys = NEIGHBOURS.get(letter.lower(), letter)
    key = keys[int(rng.integers(len(keys)))]
    return key.upper() if letter.isupper() else key


def _substitute(word: str, place: int, rng: np.random.Generator) -> str:
    return word[:place] + _neighbour(word[place], rng) + word[place + 1 :]


def _insert(word: str, place: int, rng: np.random.Generator) -> str:
    return word[: place + 1] + _neighbour(word[place], rng) + word[place + 1 :]


def _drop(word: str, place: int, rng: np.random.Generator) -> str:
    del rng
    return word[:place] + word[place + 1 :]


def _repeat(word: str, place: int, rng: np.random.Generator) -> str:
    del rng
    return word[: place + 1] + word[place:]


def _transpose(word: str, place: int, rng: np.random.Generator) -> str:
    del rng
    at = min(place, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


TYPO_KINDS = MappingProxyType({
    "substitute": _substitute,
    "insert": _insert,
    "drop": _drop,
    "repeat": _repeat,
    "transpose": _transpose,
})  # fmt: skip
"""Edits of a word, by the name of the typing error."""

HELD_OUT_TYPOS = ("repeat", "transpose")
"""Kinds of typing errors that no training uses."""


def scramble_typos(text: str, rate: float, rng: np.random.Generator, *, kind: str) -> ScrambledText:
    """Return a text with a typing error in a share of its words of at least three letters.

    Args:
        text: Text to change.
        rate: Share of the words, in [0, 1].
        rng: Source of randomness.
        kind: Key of ``TYPO_KINDS``.
    """
    parts, is_word = split_parts(text)
    is_long = is_word & (np.array([len(part) for part in parts], np.int64) >= MIN_LETTERS)
    chosen = is_long & (rng.random(len(parts)) < rate)
    shares = rng.random(len(parts))
    edit = TYPO_KINDS[kind]
    return replace_pieces(
        parts,
        (
            edit(part, int(share * len(part)), rng) if hit else part
            for part, hit, share in zip(parts, chosen, shares, strict=True)
        ),
    )


def scramble_case(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text in which a share of the words is in lower case, capitals, or swapped case.

    Only words whose letters each have one other case are changed, so that ``casefold`` of the
    result is that of the source: it is the invariant of this scramble.
    """
    parts, is_word = split_parts(text)
    changes = (str.lower, str.upper, str.swapcase)
    draws = rng.integers(len(changes), size=len(parts))
    chosen = is_word & (rng.random(len(parts)) < rate)
    return replace_pieces(
        parts,
        (
            changes[draw](part) if hit and _has_simple_case(part) else part
            for part, hit, draw in zip(parts, chosen, draws, strict=True)
        ),
    )


def scramble_whitespace(text: str, rate: float, rng: np.random.Generator) -> ScrambledText:
    """Return a text in which a share of the gaps is another gap: two spaces, a tab, a line break.

    ``text.split()`` is the invariant of this scramble.
    """
    parts, _ = split_parts(text)
    draws = rng.integers(len(_SPACES), size=len(parts))
    chosen = rng.random(len(parts)) < rate
    return replace_pieces(
        parts,
        (
            _SPACES[draw] if hit and part.isspace() else part
            for part, hit, draw in zip(parts, chosen, draws, strict=True)
        ),
    )


def split_parts(text: str) -> tuple[list[str], np.ndarray]:
    """Return consecutive parts that make up the text, and which of them are words of letters."""
    parts = _PARTS.findall(text)
    return parts, np.array([part.isalpha() for part in parts], dtype=bool)


def _has_simple_case(word: str) -> bool:
    """Return whether case changes of a word are lossless; of the German sharp s they are not."""
    return all(
        one.lower().casefold() == one.upper().casefold() == one.swapcase().casefold()
        and len(one.upper()) == len(one.lower()) == 1
        for one in word
    )
