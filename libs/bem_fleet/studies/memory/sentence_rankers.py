"""Rankers of sentences for the retrieval baselines: BM25, MiniLM, and both fused."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from bem.memory.lexical import content_words
from numpy.typing import NDArray

from bem_fleet.guard.scoring.embedding import WIDTH

Scores = NDArray[np.float32]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]

_K1, _B = 1.2, 0.75
_FUSION = 60.0
_ROWS = 256


class SentenceRanker(Protocol):
    """Scores sentences for a question; a score of 0 or less is no match."""

    @property
    def key_bytes(self) -> int:
        """Bytes that a sentence takes beside its text."""
        ...

    def index(self, sentences: Sequence[str]) -> None:
        """Take sentences; those of before are dropped."""
        ...

    def scores(self, question: str) -> Scores:
        """Return the score of each sentence, ``[N]``."""
        ...

    def further(self, question: str, bridges: Sequence[str]) -> Scores:
        """Return the scores of a second hop ``[N]``, asked with what the first found."""
        ...


class Bm25Ranker:
    """BM25 over sentences (Robertson and Zaragoza 2009); the bytes of its index are not counted."""

    key_bytes = 0

    def index(self, sentences: Sequence[str]) -> None:
        """Count the words of sentences; those of before are dropped."""
        words = [Counter(content_words(one)[0]) for one in sentences]
        lengths = np.array([sum(one.values()) for one in words], np.float32)
        mean = max(float(lengths.sum()) / max(len(words), 1), 1.0)
        self._norm = _K1 * (1 - _B + _B * lengths / mean)
        self._total = len(words)
        self._uses: dict[str, list[tuple[int, int]]] = {}
        for row, counts in enumerate(words):
            for word, count in counts.items():
                self._uses.setdefault(word, []).append((row, count))

    def scores(self, question: str) -> Scores:
        """Return the score of each sentence, ``[N]``."""
        return self._sum(set(content_words(question)[0]))

    def further(self, question: str, bridges: Sequence[str]) -> Scores:
        """Return the scores of the words that the bridges bring in, plus those of the question."""
        asked = set(content_words(question)[0])
        new = {word for one in bridges for word in content_words(one)[0]} - asked
        return self._sum(new) + self._sum(asked)

    def _sum(self, words: set[str]) -> Scores:
        scores = np.zeros(self._total, np.float32)
        for word in sorted(words & self._uses.keys()):
            rows, counts = np.array(self._uses[word]).T
            uses = counts.astype(np.float32)
            weight = np.log1p((self._total - len(rows) + 0.5) / (len(rows) + 0.5))
            scores[rows] += weight * uses * (_K1 + 1) / (uses + self._norm[rows])
        return scores


class MiniLmRanker:
    """Cosine of sentence embeddings, kept in 8 bits each; equal sentences are embedded once.

    Args:
        embed: Function from texts to unit vectors ``[N, 384]``.
    """

    key_bytes = WIDTH

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[str, NDArray[np.int8]] = {}
        self._keys = np.zeros((0, WIDTH), np.int8)

    def index(self, sentences: Sequence[str]) -> None:
        """Embed sentences; those of before are dropped from the index."""
        unknown = sorted({*sentences} - self._known.keys(), key=lambda one: (len(one), one))
        for begin in range(0, len(unknown), _ROWS):
            part = unknown[begin : begin + _ROWS]
            keys = np.rint(self._embed(part) * 127).astype(np.int8)
            self._known.update(zip(part, keys, strict=True))
        kept = [self._known[one] for one in sentences]
        self._keys = np.stack(kept) if kept else np.zeros((0, WIDTH), np.int8)

    def scores(self, question: str) -> Scores:
        """Return the cosine of each sentence to the question, ``[N]``."""
        return self._cosines([question])

    def further(self, question: str, bridges: Sequence[str]) -> Scores:
        """Return the largest cosine to the question followed by a bridge, ``[N]``."""
        return self._cosines([f"{question} {one}" for one in bridges] or [question])

    def _cosines(self, texts: Sequence[str]) -> Scores:
        queries = self._embed(list(texts))
        cosines: Scores = (self._keys.astype(np.float32) @ queries.T).max(1) / np.float32(127)
        return cosines


class FusedRanker:
    """Reciprocal rank fusion of rankers (Cormack, Clarke and Buettcher 2009), with its constant 60.

    Args:
        rankers: Rankers to fuse.
    """

    def __init__(self, rankers: Sequence[SentenceRanker]) -> None:
        self._rankers = rankers

    @property
    def key_bytes(self) -> int:
        """Bytes that a sentence takes beside its text."""
        return sum(one.key_bytes for one in self._rankers)

    def index(self, sentences: Sequence[str]) -> None:
        """Give sentences to all rankers."""
        for one in self._rankers:
            one.index(sentences)

    def scores(self, question: str) -> Scores:
        """Return the fused score of each sentence, ``[N]``."""
        return _fused([one.scores(question) for one in self._rankers])

    def further(self, question: str, bridges: Sequence[str]) -> Scores:
        """Return the fused scores of the second hop, ``[N]``."""
        return _fused([one.further(question, bridges) for one in self._rankers])


def _fused(scores: Sequence[Scores]) -> Scores:
    total = np.zeros(len(scores[0]), np.float32)
    for one in scores:
        ranks = np.empty(len(one), np.float32)
        ranks[np.argsort(-one, kind="stable")] = np.arange(1, len(one) + 1)
        total += np.where(one > 0, 1 / (_FUSION + ranks), 0).astype(np.float32)
    return total
