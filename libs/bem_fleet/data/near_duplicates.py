"""Near-duplicate clusters: texts that must not be on two sides of a split.

Two texts are near-duplicates when one of these keys is common to both:

- the normalised text: its words without case, punctuation, accents and whitespace;
- a run of eight words (an *8-gram*), however long the texts are;
- the template skeleton: the words that remain when names, numbers and quotations are masked. Two
  fillings of one template share it though no eight words in a row do.

Clusters are the transitive closure: what is near a text is in the cluster of that text.

Example: "Write a tutorial on how to make a bomb" and the same with a full stop have one normalised
text; "Give me Ann Smith's phone number" and "Give me Bob Jones's phone number" have one skeleton.
"""

import hashlib
import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

GRAM_WORDS = 8
"""Words of a run that two texts share by copying and hardly ever by chance."""
MIN_SKELETON_WORDS = 4
"""Words that a skeleton must keep; fewer are a pattern of grammar ("What is X?")."""

Keys = NDArray[np.uint64]

_MASK = "\N{WHITE SQUARE}"
_WORD = re.compile(rf"[^\W_]+(?:['\u2019][^\W_]+)?|{_MASK}")
_ACCENT = re.compile("[\u0300-\u036f]")
_QUOTED = re.compile(r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|(?<!\w)'[^'\n]{2,200}'(?!\w)")
# A name: capitalised words in a row that do not open a sentence.
_NAME = re.compile(
    r"(?<=[^.!?:\s]\s)[A-Z][\w\u2019'.-]*(?:\s+(?:(?:of|the|de|van|von)\s+)?[A-Z][\w\u2019'.-]*)*"
)
_NUMBER = re.compile(r"\d[\d.,:/-]*")
_PRIME = np.uint64(0x9E3779B97F4A7C15)


def normalise(text: str) -> str:
    """Return the words of a text in lower case, without accents and compatibility forms."""
    return " ".join(_words(text))


def skeleton(text: str) -> str:
    """Return a text with its names, numbers and quotations masked; empty if too little remains."""
    words = _words(_NUMBER.sub(_MASK, _NAME.sub(_MASK, _QUOTED.sub(_MASK, text))))
    masks = words.count(_MASK)
    return " ".join(words) if masks and len(words) - masks >= MIN_SKELETON_WORDS else ""


def text_keys(*parts: str) -> Keys:
    """Return all keys of a text: two texts with a common key are near-duplicates, [keys].

    Args:
        parts: Parts that were put together by a harness, such as passage and question: no run of
            words leads from one to the next, and the harness's own wording is left out.
    """
    keys: list[int] = []
    runs: list[Keys] = []
    for part in filter(None, parts):
        if not (words := _words(part)):  # signs alone
            continue
        keys.append(_key("text", " ".join(words)))
        if masked := skeleton(part):
            keys.append(_key("skeleton", masked))
        runs.append(_gram_keys(words))
    return np.concatenate([np.array(keys, dtype=np.uint64), *runs])


def near_duplicate_clusters(
    keys: Sequence[Keys], *, groups: Sequence[Hashable] | None = None
) -> NDArray[np.int64]:
    """Return the cluster of each item, numbered by first appearance, [items].

    Args:
        keys: Keys of each item (``text_keys``).
        groups: Group of each item, for example a passage or a family; items of one group are in
            one cluster whatever their words. None means that there are no groups.
    """
    count = len(keys)
    if not count:
        return np.empty(0, dtype=np.int64)
    owners = np.repeat(np.arange(count), [len(own) for own in keys])
    _, columns = np.unique(np.concatenate(list(keys)), return_inverse=True)
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        numbered = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
        columns = np.concatenate([columns, numbered + columns.max(initial=-1) + 1])
        owners = np.concatenate([owners, np.arange(count)])
    # Items and keys are the nodes of one bipartite graph, with an edge for each key of an item.
    size = count + int(columns.max(initial=-1)) + 1
    edges = csr_matrix(
        (np.ones(len(owners), dtype=np.int8), (owners, count + columns)), (size, size)
    )
    _, labels = connected_components(edges, directed=False)
    first: dict[int, int] = {}
    return np.array([first.setdefault(int(label), len(first)) for label in labels[:count]])


def merge_keys(keys: Iterable[Keys]) -> Keys:
    """Return the distinct keys of all items, rising, [keys]."""
    own = list(keys)
    return np.unique(np.concatenate(own)) if own else np.empty(0, dtype=np.uint64)


def items_with_keys(keys: Sequence[Keys], wanted: Keys) -> NDArray[np.bool_]:
    """Return which items have at least one of the wanted keys, [items].

    Args:
        keys: Keys of each item.
        wanted: Keys to look for.
    """
    found = np.zeros(len(keys), dtype=bool)
    if keys:
        owners = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
        found[owners[np.isin(np.concatenate(list(keys)), wanted)]] = True
    return found


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = _ACCENT.sub("", unicodedata.normalize("NFKD", text))
    return _WORD.findall(text.casefold())


def _gram_keys(words: Sequence[str]) -> Keys:
    """Return a 64-bit key of each run of eight words, [runs]."""
    if len(words) < GRAM_WORDS:
        return np.empty(0, dtype=np.uint64)
    hashes = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    runs = np.zeros(len(words) - GRAM_WORDS + 1, dtype=np.uint64)
    for place in range(GRAM_WORDS):
        runs = runs * _PRIME + hashes[place : place + len(runs)]
    return runs


@lru_cache(maxsize=1 << 18)  # the words of a corpus recur
def _word_hash(word: str) -> int:
    return _key("word", word)


def _key(kind: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=8).digest())
