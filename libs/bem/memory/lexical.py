"""Content words of a sentence and their 16-bit hashes, entities first.

Names, numbers and identifiers are what questions ask by. They are found without a list of the
language's words: an entity has a digit, an inner capital, or a capital at its beginning and is no
function word.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bem.memory.slot_format import WORD_HASHES

_WORD = re.compile(r"\w+(?:[-'\u2019.]\w+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?$")
# Words of grammar and of questions, which say nothing about what is asked.
_FUNCTION_WORDS = frozenset(
    """
    a about after again all also am an and any are as at be because been before being but by can
    could did do does doing down during each few for from further had has have having he her here
    hers him his how i if in into is it its just me more most my no nor not now of off on once only
    or other our out over own please same shall she should so some such tell than that the their
    them then there these they this those through to too under until up upon us very was we were
    what when where which while who whom whose why will with would yes you your yours
    """.split()  # noqa: SIM905 - a list of words is read as a text
)
_HASH_BITS = 16


def content_words(text: str) -> tuple[list[str], int]:
    """Return the distinct content words of a text, entities first, and the number of entities.

    Words are lower-case, in compatibility form (NFKC), without a possessive ending.
    """
    entities: dict[str, None] = {}
    others: dict[str, None] = {}
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text)):
        spelled = _POSSESSIVE.sub("", match[0])
        word = spelled.casefold()
        if not word or word in _FUNCTION_WORDS:
            continue
        (entities if _is_entity(spelled) else others)[word] = None
    others = {word: None for word in others if word not in entities}
    return [*entities, *others], len(entities)


def word_hashes(text: str) -> tuple[NDArray[np.uint16], int]:
    """Return the hashes ``[16]`` of a text's first content words, and how many are entities.

    Entities come first; unused places are 0.
    """
    words, entities = content_words(text)
    hashes = np.zeros(WORD_HASHES, np.uint16)
    kept = words[:WORD_HASHES]
    hashes[: len(kept)] = [hash_word(word) for word in kept]
    return hashes, min(entities, WORD_HASHES)


@lru_cache(maxsize=2**16)
def hash_word(word: str) -> int:
    """Return the hash of a normalised word, 1 to 65,535."""
    digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % (2**_HASH_BITS - 1) + 1


def _is_entity(word: str) -> bool:
    return any(char.isdigit() for char in word) or any(char.isupper() for char in word)
