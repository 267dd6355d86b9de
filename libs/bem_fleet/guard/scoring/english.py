"""English words by frequency: word segmentation, letters behind leetspeak, and the language gate.

The vocabulary of the packaged MiniLM lists whole words roughly by frequency, which is all that
segmentation by dynamic programming needs: with Zipf's law, the cost of the word of rank r is
``log(r log N)``.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice

from bem_fleet.guard.scoring.embedding import model_folder

_MAX_WORD = 20
# Cost of letters that are no word: of a run of them, and of each letter.
_UNKNOWN_COST, _UNKNOWN_LETTER_COST = 10.0, 2.5
# Words whose letters may be segmented; longer ones are data, and the work stays bounded.
MIN_SEGMENTED, MAX_SEGMENTED = 12, 400
_WORD = re.compile(r"[^\W\d_]+")
# All words of one and two letters; the vocabulary has many other pieces of that length.
_SHORT_WORDS = frozenset(
    """
    a i am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we
    """.split()  # noqa: SIM905 - as below
)
_FUNCTION_WORDS = frozenset(
    """
    the a an of to in and is are was you your i it that this for on with as be or not how what who
    do does can my me we they he she his her by at from have has will if all about which when where
    why would should could please give tell write make there their them but so no any some him our
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)
_MAX_GATE_WORDS = 200
_TOKEN = re.compile(r"[\w$@!|+]+")
_NON_ASCII_WORD = re.compile(r"(?:(?![\x00-\x7f])\w)+")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n+")


@cache
def word_costs() -> Mapping[str, float]:
    """Return the cost of each English word of the vocabulary, lower for frequent words."""
    vocabulary = json.loads((model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    ranked = sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])
    words = [
        word
        for word, _ in ranked
        if word.isascii() and word.isalpha() and (len(word) > 2 or word in _SHORT_WORDS)
    ]
    scale = math.log(len(words))
    return {word: math.log((rank + 2) * scale) for rank, word in enumerate(words)}


def is_word(text: str) -> bool:
    """Return whether the lower-case text is a word of the vocabulary."""
    return text in word_costs()


def word_cost(text: str) -> float:
    """Return the cost of a lower-case word, lower for frequent words; infinite for no word."""
    return word_costs().get(text, math.inf)


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
            (best[start] + costs.get(text[start:end], _unknown_cost(end - start)), start)
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


def _is_leetspeak(text: str) -> bool:
    """Return whether a fifth of the words mix letters and digits, which no language does."""
    tokens = [match[0] for match in islice(_TOKEN.finditer(text), _MAX_GATE_WORDS)]
    mixed = sum(not token.isalpha() and not token.isdigit() for token in tokens)
    return 5 * mixed >= len(tokens)


def english_parts(text: str) -> str:
    """Return what is not another language in a foreign text, for the model that reads English.

    Sentences that are not foreign stay, and so do all words if half of them mix letters of ASCII
    with others: those are look-alikes of English words, not another language.
    """
    words = [match[0] for match in islice(_WORD.finditer(text), _MAX_GATE_WORDS)]
    mixed = sum(not word.isascii() and any(one.isascii() for one in word) for word in words)
    other = sum(not any(one.isascii() for one in word) for word in words)
    if 2 * mixed >= len(words) and 2 * other < len(words):
        return text
    latin = _NON_ASCII_WORD.sub(" ", text)
    sentences = [one.strip() for one in _SENTENCE_END.split(latin)]
    kept = [one for one in sentences if len(_WORD.findall(one)) > 2 and not is_foreign(one)]
    return "\n".join(kept)


def _unknown_cost(letters: int) -> float:
    return _UNKNOWN_COST + _UNKNOWN_LETTER_COST * letters


def is_foreign(text: str) -> bool:
    """Return whether a text has enough words of other languages to be read by another model.

    That is the case where a fifth of its letters are outside ASCII, or where fewer than an eighth
    of at least three words are English function words and two fifths are no English words at all.
    Leetspeak is English whose words are hidden.
    """
    words = [match[0].lower() for match in islice(_WORD.finditer(text), _MAX_GATE_WORDS)]
    letters = sum(map(len, words))
    if not letters:
        return False
    if sum(not letter.isascii() for word in words for letter in word) >= 0.2 * letters:
        return True
    if len(words) < 3 or _is_leetspeak(text) or _has_function_words(words):
        return False
    return 5 * _count_unknown(words) >= 2 * len(words)


def is_plain_english(text: str) -> bool:
    """Return whether an eighth of the words are function words and four fifths are English words.

    It tells deciphered English from letters that were shifted by chance into a word or two.
    """
    words = [match[0].lower() for match in islice(_WORD.finditer(text), _MAX_GATE_WORDS)]
    return (
        len(words) >= 3 and _has_function_words(words) and 5 * _count_unknown(words) <= len(words)
    )


def _has_function_words(words: Sequence[str]) -> bool:
    return 8 * sum(word in _FUNCTION_WORDS for word in words) >= len(words)


def _count_unknown(words: Sequence[str]) -> int:
    return sum(len(word) > 1 and not is_word(word) for word in words)
