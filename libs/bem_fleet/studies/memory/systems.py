"""Systems that read a long text once and return evidence for questions: the memory and baselines.

All return at most 16 sentences, in the order of the text, so that a reader gets as much from each.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from bem.memory import MemoryEncoder, SessionConfig, SessionMemory, SlotTokenizer
from bem.memory.encoder import read_document
from bem.memory.sentences import Sentence, split_sentences

from bem_fleet.studies.memory.sentence_rankers import SentenceRanker

EVIDENCE = 16
"""Sentences that a question gets at most."""

KV_TOKEN_BYTES = 23_040
"""Bytes of keys and values of one token of SmolLM2-135M in bfloat16: 30 layers, 3 heads of 64."""

BRIDGES = 3
"""Sentences of a first hop from which the second asks on."""

# A token has at most some dozen characters: what lies further away cannot be in a window.
_TOKEN_CHARS = 64


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

    @property
    def session(self) -> SessionMemory:
        """Session that has read the text."""
        return self._session

    def evidence(self, question: str) -> list[str]:
        """Return the texts of the retrieved slots."""
        found = self._session.retrieve(self._encoder.question(question), hops=self._hops)
        slots = self._session.store.slots[found.indices]
        spell = self._encoder.tokenizer.text
        return [spell(slot["ids"][: slot["tokens"]].tolist()) for slot in slots]


class RetrievalSystem:
    """A ranker over the sentences of all text or of its last bytes.

    Args:
        name: Name in reports.
        ranker: Ranker of sentences; systems may share one, which is indexed again when it is read.
        budget_bytes: Bytes of text and keys that are kept, the latest ones; None keeps all.
        hops: 2 asks again with the best three sentences.
    """

    def __init__(
        self, name: str, ranker: SentenceRanker, budget_bytes: int | None = None, hops: int = 1
    ) -> None:
        self.name = name
        self._ranker, self._budget, self._hops = ranker, budget_bytes, hops
        self._sentences: list[str] = []

    def read(self, text: str) -> None:
        """Index the sentences of a text."""
        kept = [one.text for one in split_sentences(text)]
        if self._budget is not None:
            key = self._ranker.key_bytes
            sizes = np.cumsum([len(one.encode()) + key for one in reversed(kept)])
            kept = kept[len(kept) - int((sizes <= self._budget).sum()) :]
        self._sentences = kept
        self._ranker.index(kept)

    def evidence(self, question: str) -> list[str]:
        """Return the best sentences."""
        if not self._sentences:
            return []
        limit = EVIDENCE if self._hops == 1 else EVIDENCE // 2
        chosen = _best(self._ranker.scores(question), limit)
        if self._hops > 1:
            bridges = [self._sentences[index] for index in chosen[:BRIDGES]]
            scores = self._ranker.further(question, bridges)
            scores[chosen] = 0
            chosen += _best(scores, EVIDENCE - limit)
        return [self._sentences[index] for index in sorted(set(chosen))]


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
        ids = token_ids(self._tokenizer, text[-_TOKEN_CHARS * self._tokens :])
        self._window = self._tokenizer.text(ids[-self._tokens :])

    def evidence(self, question: str) -> list[str]:
        """Return the window."""
        del question
        return [self._window]


class TruncationSystem:
    """The first and the last tokens of a text, half of a window each, as clients cut long prompts.

    Args:
        name: Name in reports.
        encoder: Encoder of the base model, of which the tokenizer is used.
        budget_bytes: Bytes of keys and values.
    """

    def __init__(self, name: str, encoder: MemoryEncoder, budget_bytes: int) -> None:
        self.name = name
        self._tokenizer = encoder.tokenizer
        self._half = max(1, budget_bytes // KV_TOKEN_BYTES // 2)
        self._ends: list[str] = []

    def read(self, text: str) -> None:
        """Keep both ends of a text."""
        room = _TOKEN_CHARS * self._half
        first = token_ids(self._tokenizer, text[:room])[: self._half]
        rest = text[len(self._tokenizer.text(first)) :]
        last = token_ids(self._tokenizer, rest[-room:])[-self._half :]
        self._ends = [self._tokenizer.text(first), self._tokenizer.text(last)]

    def evidence(self, question: str) -> list[str]:
        """Return both ends."""
        del question
        return self._ends


def token_ids(tokenizer: SlotTokenizer, text: str) -> list[int]:
    """Return the token ids of a text, of which ``tokenizer.text`` gives the text again."""
    return [token for piece in tokenizer.pieces(Sentence(text, 0)) for token in piece.ids]


def _best(scores: np.ndarray, count: int) -> list[int]:
    order: Sequence[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return [index for index in order if scores[index] > 0]
