"""Rankers of the retrieval baselines, with embeddings of letters in place of MiniLM."""

from collections.abc import Sequence

import numpy as np
import pytest
from bem_fleet.guard.scoring.embedding import WIDTH
from bem_fleet.studies.memory.sentence_rankers import (
    Bm25Ranker,
    FusedRanker,
    MiniLmRanker,
    SentenceRanker,
)
from bem_fleet.studies.memory.systems import RetrievalSystem
from numpy.typing import NDArray

SENTENCES = ["Ada lives in Quorvale.", "It rained all day.", "Quorvale has a green mill."]


class Letters:
    """Embeds texts as their counts of letters, and counts the texts."""

    def __init__(self) -> None:
        self.embedded = 0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors ``[N, 384]``."""
        self.embedded += len(texts)
        counts = np.full((len(texts), WIDTH), 1e-3, np.float32)
        for row, text in zip(counts, texts, strict=True):
            for letter in text.lower():
                row[ord(letter) % WIDTH] += 1
        unit: NDArray[np.float32] = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return unit


@pytest.mark.parametrize(
    "ranker",
    [Bm25Ranker(), MiniLmRanker(Letters()), FusedRanker([Bm25Ranker(), MiniLmRanker(Letters())])],
    ids=["bm25", "minilm", "fused"],
)
def test_right_sentence_is_first(ranker: SentenceRanker) -> None:
    """The sentence with the question's words is above the others, and hops end where it leads."""
    ranker.index(SENTENCES)
    further = ranker.further("Ada lives in what?", SENTENCES[:1])

    assert int(ranker.scores("Ada lives in what?").argmax()) == 0
    assert further.shape == (3,)
    assert further[2] > further[1]


def test_sentences_are_embedded_once_and_their_keys_are_counted() -> None:
    """Indexing again embeds new sentences only; a budget holds fewer sentences with keys."""
    letters = Letters()
    ranker = MiniLmRanker(letters)
    ranker.index(SENTENCES)
    ranker.index(SENTENCES[:2])
    assert letters.embedded == 3
    fused = FusedRanker([Bm25Ranker(), ranker])
    system = RetrievalSystem("fused", fused, budget_bytes=WIDTH + 40)
    system.read("\n".join(SENTENCES))

    assert fused.key_bytes == WIDTH
    assert len(system.evidence("green mill")) == 1


def test_fusion_adds_reciprocal_ranks() -> None:
    """A sentence without any match has no score."""
    ranker = FusedRanker([Bm25Ranker(), Bm25Ranker()])
    ranker.index(SENTENCES)

    assert ranker.scores("rained") == pytest.approx([0, 2 / 61, 0])
