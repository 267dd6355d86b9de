"""Text as character ids, for models that are pretrained from scratch on books.

The alphabet is printable ASCII: ids 1 to 95 in the order of their codes, and 0 for a hidden
character, which no text has.
"""

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

CharacterIds = NDArray[np.int64]

ALPHABET = 96
"""Number of ids, the hidden character among them."""

_FIRST = ord(" ")
_WORD = re.compile(r"[!-~]+")
# Typographic signs that have no compatibility decomposition to ASCII.
_SIGNS = str.maketrans({
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
})  # fmt: skip


def encode_characters(text: str) -> CharacterIds:
    """Return the ids of a text in [1, 95], ``[N]``.

    Accents are removed and typographic signs become ASCII; a run of whitespace and control
    characters is one space, and characters without an ASCII form are left out.

    Args:
        text: Any text.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_SIGNS)).encode("ascii", "ignore")
    words = " ".join(_WORD.findall(plain.decode("ascii")))
    return np.frombuffer(words.encode(), np.uint8).astype(np.int64) - (_FIRST - 1)


def decode_characters(ids: CharacterIds) -> str:
    """Return the text of ids; a hidden character is the replacement character."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if one == 0 else chr(one + _FIRST - 1) for one in ids
    )
