"""Systems that read a long text once and return evidence for questions: the memory and baselines.

All return at most 16 sentences, in the order of the text, so that a reader gets as much from each.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from bem.memory import MemoryEncoder, SessionConfig, SessionMemory
from bem.memory.encoder import read_document
from bem.memory.lexical import content_words
from bem.memory.sentences import Sentence, split_sentences

EVIDENCE = 16
"""Sentences that a question gets at most."""

KV_TOKEN_BYTES = 23_040
"""Bytes of keys and values of one token of SmolLM2-135M in bfloat16: 30 layers, 3 heads of 64."""

_K1, _B = 1.2, 0.75


class EvidenceSystem(Protocol):
    """Reads a text and finds evidence."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def read(self, text: str) -> None:
        """Read a text; what was read before is dropped."""
        ...

    def evidence(self, question: str) -> list[str]:
        """Return the evidence for a question, in the order of the text."""
        ...


class MemorySystem:
    """Mission memory.

    Args:
        name: Name in reports.
        encoder: Encoder of the base model.
        config: Bytes, gate, eviction and state of the session.
        hops: Hops of the retrieval.
    """

    def __init__(
        self, name: str, encoder: MemoryEncoder, config: SessionConfig, hops: int = 2
    ) -> None:
        self.name = name
        self._encoder, self._config, self._hops = encoder, config, hops
        self._session = SessionMemory(config, encoder.modules)

    def read(self, text: str) -> None:
        """Read a text into a new session."""
        self._session = SessionMemory(self._config, self._encoder.modules)
        read_document(self._session, self._encoder, text)

    def evidence(self, question: str) -> list[str]:
        """Return the texts of the retrieved slots."""
        found = self._session.retrieve(self._encoder.question(question), hops=self._hops)
        slots = self._session.store.slots[found.indices]
        spell = self._encoder.tokenizer.text
        return [spell(slot["ids"][: slot["tokens"]].tolist()) for slot in slots]


class Bm25System:
    """BM25 over sentences (Robertson and Zaragoza 2009), of all text or of its last bytes.

    Args:
        name: Name in reports.
        budget_bytes: Bytes of text that are kept, the latest ones, the index not counted; None
            keeps all.
        hops: 2 asks again with the words of the best three sentences.
    """

    def __init__(self, name: str, budget_bytes: int | None = None, hops: int = 1) -> None:
        self.name = name
        self._budget, self._hops = budget_bytes, hops
        self._sentences: list[str] = []
        self._words: list[Counter[str]] = []

    def read(self, text: str) -> None:
        """Index the sentences of a text."""
        kept = [one.text for one in split_sentences(text)]
        if self._budget is not None:
            sizes = np.cumsum([len(one.encode()) for one in reversed(kept)])
            kept = kept[len(kept) - int((sizes <= self._budget).sum()) :]
        self._sentences = kept
        self._words = [Counter(content_words(one)[0]) for one in kept]
        lengths = np.array([sum(one.values()) for one in self._words], np.float32)
        self._norm = _K1 * (
            1 - _B + _B * lengths / max(float(lengths.sum()) / max(len(kept), 1), 1.0)
        )
        self._documents = Counter(word for one in self._words for word in one)

    def evidence(self, question: str) -> list[str]:
        """Return the best sentences."""
        if not self._sentences:
            return []
        words = set(content_words(question)[0])
        scores = self._scores(words)
        limit = EVIDENCE if self._hops == 1 else EVIDENCE // 2
        chosen = _best(scores, limit)
        if self._hops > 1:
            bridges = {word for index in chosen[:3] for word in self._words[index]} - words
            further = self._scores(bridges) + scores
            further[chosen] = 0
            chosen += _best(further, EVIDENCE - limit)
        return [self._sentences[index] for index in sorted(set(chosen))]

    def _scores(self, words: set[str]) -> np.ndarray:
        total = len(self._sentences)
        scores = np.zeros(total, np.float32)
        for word in words & self._documents.keys():
            count = self._documents[word]
            weight = np.log1p((total - count + 0.5) / (count + 0.5))
            uses = np.array([one[word] for one in self._words], np.float32)
            scores += weight * uses * (_K1 + 1) / (uses + self._norm)
        return scores


class WindowSystem:
    """The first four and the last tokens, as a KV cache with sinks keeps them (arXiv 2309.17453).

    Its evidence is the window itself: a reader that finds everything in it.

    Args:
        name: Name in reports.
        encoder: Encoder of the base model, of which the tokenizer is used.
        budget_bytes: Bytes of keys and values.
    """

    def __init__(self, name: str, encoder: MemoryEncoder, budget_bytes: int) -> None:
        self.name = name
        self._tokenizer = encoder.tokenizer
        self._tokens = max(1, budget_bytes // KV_TOKEN_BYTES - 4)
        self._window = ""

    def read(self, text: str) -> None:
        """Keep the end of a text."""
        # A token has at most some dozen characters: what lies before cannot be in the window.
        end = text[-64 * self._tokens :]
        ids = [token for piece in self._tokenizer.pieces(Sentence(end, 0)) for token in piece.ids]
        self._window = self._tokenizer.text(ids[-self._tokens :])

    def evidence(self, question: str) -> list[str]:
        """Return the window."""
        del question
        return [self._window]


def _best(scores: np.ndarray, count: int) -> list[int]:
    order: Sequence[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return [index for index in order if scores[index] > 0]
