"""Terms of a text and their columns: words and word pairs, hashed as scikit-learn does.

Training uses ``HashingVectorizer``; importing it takes 120 MB and three seconds, which each scorer
process would pay for two small functions. A test compares both on any text.
"""

import re
from functools import lru_cache
from itertools import pairwise

N_FEATURES = 2**16
"""Number of columns."""

_WORD = re.compile(r"\b\w\w+\b")
_UINT32 = 0xFFFFFFFF
_FIRST, _SECOND = 0xCC9E2D51, 0x1B873593


def extract_terms(text: str) -> list[str]:
    """Return the words of at least two characters in lower case, and the pairs of neighbours."""
    words = _WORD.findall(text.lower())
    return [*words, *(f"{left} {right}" for left, right in pairwise(words))]


@lru_cache(maxsize=1 << 15)  # the words of a language recur
def term_column(term: str) -> int:
    """Return the column of a term, 0 to ``N_FEATURES`` - 1."""
    unsigned = murmurhash3(term.encode())
    signed = unsigned - (1 << 32) if unsigned >> 31 else unsigned
    return abs(signed) % N_FEATURES


def murmurhash3(key: bytes) -> int:
    """Return MurmurHash3_x86_32 of a key with seed 0 (Appleby, public domain), unsigned."""
    state = 0
    whole = len(key) & ~3
    for start in range(0, whole, 4):
        state ^= _mix(int.from_bytes(key[start : start + 4], "little"))
        state = (_rotate(state, 13) * 5 + 0xE6546B64) & _UINT32
    if len(key) > whole:
        state ^= _mix(int.from_bytes(key[whole:], "little"))
    state ^= len(key)
    state = (state ^ (state >> 16)) * 0x85EBCA6B & _UINT32
    state = (state ^ (state >> 13)) * 0xC2B2AE35 & _UINT32
    return state ^ (state >> 16)


def _mix(block: int) -> int:
    return _rotate(block * _FIRST & _UINT32, 15) * _SECOND & _UINT32


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _UINT32
