"""English words by frequency: word segmentation, letters behind leetspeak, and the language gate.

The vocabulary of the packaged MiniLM lists whole words roughly by frequency, which is all that
segmentation by dynamic programming needs: with Zipf's law, the cost of the word of rank r is
``log(r log N)``.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from itertools import islice

from bem_fleet.guard.scoring.embedding import model_folder

_MAX_WORD = 20
_UNKNOWN_LETTER_COST = 14.0
# Words whose letters may be segmented; longer ones are data, and the work stays bounded.
MIN_SEGMENTED, MAX_SEGMENTED = 12, 400
_WORD = re.compile(r"[^\W\d_]+")
# Marks that the first words of the vocabulary, single letters, are no words.
_ONE_LETTER_WORDS = frozenset("ai")
_FUNCTION_WORDS = frozenset(
    """
    the a an of to in and is are was you your i it that this for on with as be or not how what who
    do does can my me we they he she his her by at from have has will if all about which when where
    why would should could please give tell write make there their them but so no any some him our
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)
_MAX_GATE_WORDS = 200


@cache
def word_costs() -> Mapping[str, float]:
    """Return the cost of each English word of the vocabulary, lower for frequent words."""
    vocabulary = json.loads((model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    ranked = sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])
    words = [
        word
        for word, _ in ranked
        if word.isascii() and word.isalpha() and (len(word) > 1 or word in _ONE_LETTER_WORDS)
    ]
    scale = math.log(len(words))
    return {word: math.log((rank + 2) * scale) for rank, word in enumerate(words)}


def is_word(text: str) -> bool:
    """Return whether the lower-case text is a word of the vocabulary."""
    return text in word_costs()


def segment(letters: str) -> str:
    """Return letters without spaces as words; unknown letters stay together with their neighbours.

    Example: ``"howtobakebread"`` gives ``"how to bake bread"``.

    Args:
        letters: ASCII letters of any case, at most 400 of which are segmented.
    """
    text, rest = letters[:MAX_SEGMENTED].lower(), letters[MAX_SEGMENTED:]
    costs = word_costs()
    best = [0.0]
    lengths = [0]
    for end in range(1, len(text) + 1):
        candidates = [
            (best[start] + costs.get(text[start:end], _UNKNOWN_LETTER_COST * (end - start)), start)
            for start in range(max(0, end - _MAX_WORD), end)
        ]
        cost, start = min(candidates)
        best.append(cost)
        lengths.append(end - start)
    words = []
    end = len(text)
    while end:
        words.append(text[end - lengths[end] : end])
        end -= lengths[end]
    return " ".join([*reversed(words), rest] if rest else reversed(words))


def is_foreign(text: str) -> bool:
    """Return whether a text has enough words of other languages to be read by another model.

    That is the case where a fifth of its letters are outside ASCII, or where fewer than an eighth
    of at least three words are English function words and a third are no English words at all.
    """
    words = [match[0].lower() for match in islice(_WORD.finditer(text), _MAX_GATE_WORDS)]
    letters = sum(map(len, words))
    if not letters:
        return False
    if sum(not letter.isascii() for word in words for letter in word) >= 0.2 * letters:
        return True
    if len(words) < 3:
        return False
    function_words = sum(word in _FUNCTION_WORDS for word in words)
    unknown = sum(len(word) > 1 and not is_word(word) for word in words)
    return 8 * function_words < len(words) and 3 * unknown >= len(words)
