"""Retrieval: which slots answer a question, in one hop or two, and how sure that is.

The score of a slot adds dense similarity, overlap of rare words, the state's pointer to the latest
mention of each entity of the question, and a little recency. The second hop asks again with the
words that the first hop's sentences bring in: "Where is the city in which Ada was born?" needs the
city's own sentences. Evidence is returned in the order of the text, because order is meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bem.memory.entity_state import EntityState
from bem.memory.modules import ScoreWeights
from bem.memory.slot_format import KEY_SCALE, Slots

FIRST_HOP, SECOND_HOP = 8, 8
"""Slots that a hop adds at most."""

MAX_HOPS = 2

BRIDGES = 3
"""Slots of the first hop from which the second takes its words."""

_MIN_SHARE = 0.2
# Two sentences say the same of the same thing if they share this many words and differ in one.
_SHARED_WORDS = 2


@dataclass(frozen=True)
class Question:
    """A question as the memory sees it.

    Attributes:
        key: Unit key ``[96]``.
        words: Hashes of its content words, entities first.
        entities: Number of the hashes that are entities.
    """

    key: NDArray[np.float32]
    words: NDArray[np.uint16]
    entities: int


@dataclass(frozen=True)
class Retrieved:
    """Evidence for a question.

    Attributes:
        indices: Slots in the order of the text.
        scores: Score of each.
        hops: Hop that found each, 1 or 2.
        features: Features ``[4]`` of the confidence: best score, margin, salience of the best, and
            share of the question's rare words that the evidence has.
    """

    indices: NDArray[np.intp]
    scores: NDArray[np.float32]
    hops: NDArray[np.int8]
    features: NDArray[np.float32]


def retrieve(
    slots: Slots,
    used: NDArray[np.intp],
    state: EntityState | None,
    question: Question,
    weights: ScoreWeights,
    *,
    hops: int = MAX_HOPS,
) -> Retrieved:
    """Return the evidence for a question.

    Args:
        slots: All slots.
        used: Indices of the slots in use, in the order of the text.
        state: Entity state; None to go without.
        question: The question.
        weights: Weights of the score.
        hops: 1 or 2.
    """
    if not len(used):
        empty = np.zeros(0, np.float32)
        return Retrieved(used, empty, np.zeros(0, np.int8), np.zeros(4, np.float32))
    ranking = _Ranking(slots[used], state, question, weights)
    first = _best(ranking.scores, FIRST_HOP)
    scores = {int(index): float(ranking.scores[index]) for index in first}
    second = ranking.second_hop(first) if hops > 1 else {}
    local = np.array(sorted([*scores, *second]), np.intp)
    return Retrieved(
        used[local],
        np.array([{**scores, **second}[index] for index in local.tolist()], np.float32),
        np.array([2 if index in second else 1 for index in local.tolist()], np.int8),
        ranking.confidence_features(first, local),
    )


def superseded(slots: Slots, used: NDArray[np.intp], index: int) -> bool:
    """Return whether a later slot says the same of the same thing with another value.

    That is a slot that shares two words with it, one of them an entity, and in which exactly one
    word is replaced by another one: "The code of Ada is 17." and later "The code of Ada is 23.".
    """
    own = slots[index]
    words = own["words"][own["words"] > 0]
    later = slots["words"][used[slots["order"][used] > own["order"]]]
    shared = np.isin(later, words).sum(1)
    entity = np.isin(later, words[: own["entities"]]).any(1)
    same_size = (later > 0).sum(1) == len(words)
    enough = (shared >= _SHARED_WORDS) & (shared == len(words) - 1)
    return bool((same_size & enough & entity).any())


class WordRarity:
    """Inverse document frequency of word hashes over the slots.

    Args:
        kept: Slots in use.
    """

    def __init__(self, kept: Slots) -> None:
        self._words = kept["words"]
        hashes, counts = np.unique(self._words, return_counts=True)
        self._count = dict(zip(hashes.tolist(), counts.tolist(), strict=True))
        self._total = len(kept)

    def weight(self, word: int) -> float:
        """Return ``log(1 + (N - n + 0.5) / (n + 0.5))`` (Robertson and Zaragoza 2009)."""
        count = self._count.get(word, 0)
        return float(np.log1p((self._total - count + 0.5) / (count + 0.5)))

    def overlap(self, words: Sequence[int]) -> NDArray[np.float32]:
        """Return the share of the words' weight that each slot has, ``[N]`` in [0, 1]."""
        total = np.zeros(self._total, np.float32)
        weights = {word: self.weight(word) for word in words if word}
        for word, weight in weights.items():
            if word in self._count:
                total += np.float32(weight) * (self._words == word).any(1)
        return total / np.float32(max(sum(weights.values()), 1e-6))


def score_features(
    kept: Slots, state: EntityState | None, question: Question, rarity: WordRarity
) -> NDArray[np.float32]:
    """Return what ``ScoreWeights`` weigh, in its order, for each slot: ``[N, 4]``.

    Args:
        kept: Slots in use, in the order of the text.
        state: Entity state; None to go without.
        question: The question.
        rarity: Rarity of words among these slots.
    """
    features = np.zeros((len(kept), 4), np.float32)
    features[:, 0] = kept["key"].astype(np.float32) @ question.key / KEY_SCALE
    features[:, 1] = rarity.overlap(question.words.tolist())
    features[:, 2] = _pointers(kept, state, question.words[: question.entities])
    features[:, 3] = np.linspace(0, 1, len(kept))
    return features


def _pointers(
    kept: Slots, state: EntityState | None, entities: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return how strongly the state points from any entity to each slot, ``[N]`` in [0, 1]."""
    if state is None or not len(entities):
        return np.zeros(len(kept), np.float32)
    pointers: NDArray[np.float32] = np.clip(state.scores(entities, kept["order"]).max(0), 0, 1)
    return pointers


class _Ranking:
    """Scores of all slots for one question.

    Args:
        kept: Slots in use, in the order of the text.
        state: Entity state; None to go without.
        question: The question.
        weights: Weights of the score.

    Attributes:
        scores: Score of each slot for the question, ``[N]``.
    """

    def __init__(
        self, kept: Slots, state: EntityState | None, question: Question, weights: ScoreWeights
    ) -> None:
        self._kept, self._state, self._question, self._weights = kept, state, question, weights
        self._rarity = WordRarity(kept)
        factors = np.array(
            [weights.dense, weights.words, weights.state, weights.recency], np.float32
        )
        features = score_features(kept, state, question, self._rarity)
        self.scores: NDArray[np.float32] = features @ factors

    def second_hop(self, first: NDArray[np.intp]) -> dict[int, float]:
        """Return slots that the words of the best first slots lead to, with their scores."""
        asked = set(self._question.words.tolist())
        reached = np.zeros(len(self._kept), np.float32)
        for bridge in first[:BRIDGES]:
            slot = self._kept[bridge]
            words = [word for word in slot["words"].tolist() if word and word not in asked]
            entities = [w for w in slot["words"][: slot["entities"]].tolist() if w not in asked]
            # Entities lead on; only a sentence without new ones is left by its other words.
            overlap = self._rarity.overlap(entities or words)
            overlap = overlap + self._pointers(np.array(entities, np.int64))
            overlap[bridge] = 0
            reached = np.maximum(reached, np.float32(max(self.scores[bridge], 0)) * overlap)
        reached[first] = 0
        reached[reached <= _MIN_SHARE * float(reached.max())] = 0
        # What the question itself asks for decides between sentences on the same bridge.
        total = np.where(reached > 0, reached + self.scores, -np.inf)
        best = _best(total, SECOND_HOP)
        return {int(index): float(total[index]) for index in best if reached[index] > 0}

    def confidence_features(
        self, first: NDArray[np.intp], chosen: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Return best score, margin, salience, and share of the question's words ``[4]``.

        Args:
            first: Slots of the first hop, best first.
            chosen: Slots of both hops.
        """
        best = float(self.scores[first[0]])
        margin = best - float(np.median(self.scores[first])) if len(first) > 1 else best
        salience = float(self._kept["salience"][first[0]]) / 255
        words = self._question.words.tolist()
        asked = {word: self._rarity.weight(word) for word in words if word}
        present = set(self._kept["words"][chosen].ravel().tolist())
        total = sum(asked.values())
        share = sum(w for word, w in asked.items() if word in present) / total if total else 0.0
        return np.array([best, margin, salience, share], np.float32)

    def _pointers(self, entities: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the weighted pointers of the state from any entity to each slot, ``[N]``."""
        weighted: NDArray[np.float32] = np.float32(self._weights.state) * _pointers(
            self._kept, self._state, entities
        )
        return weighted


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the indices of the largest scores, best first; of equals the later one."""
    order: NDArray[np.intp] = np.lexsort((np.arange(len(scores)), scores))[::-1]
    return order[:count]
