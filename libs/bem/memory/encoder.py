"""Memory encoder: turns a part of a document into a write batch, and a question into its form."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.errors import InvalidRequestError
from bem.memory.lexical import word_hashes
from bem.memory.modules import GATE_FEATURES, NOVELTY_FEATURE, MemoryModules
from bem.memory.retrieval import Question
from bem.memory.sentences import Sentence, SentenceSplitter
from bem.memory.session import Cursor, SessionMemory
from bem.memory.slot_format import SLOT_TOKENS, quantize_key
from bem.memory.slot_tokens import SlotTokenizer, TokenPiece
from bem.memory.write_batch import WRITE, WriteBatch

MAX_QUESTION_TOKENS = 256
"""Longest question, in tokens."""

PART_CHARS = 16_384
"""Characters of a part of a whole document."""


class SentenceStates(Protocol):
    """Pools the states of a model over sentences."""

    @property
    def width(self) -> int:
        """Width F of a pooled state."""
        ...

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the pooled states ``[N, F]`` of N sentences of token ids, float32."""
        ...


class EmbeddingStates:
    """Mean token embeddings of sentences, less the mean of the vocabulary.

    They need no forward pass, so that text is read as fast as it is tokenised. Rare tokens weigh
    more: the ids of a byte-pair vocabulary are in the order of its merges, most frequent first.

    Args:
        backbone: Base model, of which only the embedding is read.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._embedding: Tensor = backbone.model.model.embed_tokens.weight.detach()
        self._mean = self._embedding.mean(0, dtype=torch.float32)
        size, device = len(self._embedding), self._embedding.device
        ranks = torch.arange(1, size + 1, dtype=torch.float32, device=device)
        self._weights = ranks.log() / ranks.log().max() + 0.1

    @property
    def width(self) -> int:
        """Width F of a pooled state."""
        return self._embedding.shape[1]

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the weighted means ``[N, F]``, of length 1."""
        device = self._embedding.device
        lengths = torch.tensor([len(one) for one in ids], device=device)
        flat = torch.tensor([token for one in ids for token in one], device=device)
        rows = torch.repeat_interleave(torch.arange(len(ids), device=device), lengths)
        states = (self._embedding[flat].float() - self._mean) * self._weights[flat, None]
        sums = torch.zeros(len(ids), self.width, device=device).index_add_(0, rows, states)
        return torch.nn.functional.normalize(sums, dim=-1).cpu()


class MemoryEncoder:
    """Encodes texts and questions for sessions.

    Args:
        tokenizer: Tokenizer of sentences.
        states: Pooled states of sentences.
        modules: Learned parts, for states of the same width.

    Raises:
        ValueError: The modules are for states of another width.
    """

    def __init__(
        self, tokenizer: SlotTokenizer, states: SentenceStates, modules: MemoryModules
    ) -> None:
        if states.width != modules.width:
            raise ValueError(
                f"modules: they read states of width {modules.width}; the model has {states.width}"
            )
        self.tokenizer = tokenizer
        self.modules = modules
        self._states = states

    def batch(self, cursor: Cursor, text: str, document: str, *, ends: bool) -> WriteBatch:
        """Encode a part of a document.

        Args:
            cursor: End of the session's text, which the part continues.
            text: Part of the document.
            document: Name of the document.
            ends: Whether the document ends with this part.
        """
        splitter = SentenceSplitter(cursor.position, cursor.pending)
        sentences = splitter.feed(text)
        if ends:
            sentences += splitter.flush()
        pieces = [piece for one in sentences for piece in self.tokenizer.pieces(one)]
        return WriteBatch(
            writes=self._writes(pieces),
            position=splitter.position,
            pending=splitter.pending,
            document=document,
            ends=ends,
        )

    @torch.inference_mode()
    def question(self, text: str) -> Question:
        """Encode a question.

        Raises:
            InvalidRequestError: The question is empty or too long.
        """
        pieces = self.tokenizer.pieces(Sentence(text, 0)) if text.strip() else []
        ids = [token for piece in pieces for token in piece.ids]
        if not 1 <= len(ids) <= MAX_QUESTION_TOKENS:
            raise InvalidRequestError(
                "question",
                f"has {len(ids)} tokens; 1 to {MAX_QUESTION_TOKENS} are allowed; shorten it",
            )
        states = self.modules.standardize(self._states.pooled([ids]))
        words, entities = word_hashes(text)
        return Question(self.modules.keys(states)[0].numpy(), words, entities)

    @torch.inference_mode()
    def _writes(self, pieces: Sequence[TokenPiece]) -> np.ndarray:
        writes = np.zeros(len(pieces), WRITE)
        if not pieces:
            return writes
        states = self.modules.standardize(self._states.pooled([piece.ids for piece in pieces]))
        surface = torch.zeros(len(pieces), GATE_FEATURES)
        for row, piece in enumerate(pieces):
            write = writes[row]
            write["ids"][: len(piece.ids)] = piece.ids
            write["tokens"], write["begin"] = len(piece.ids), piece.begin
            write["words"], write["entities"] = word_hashes(piece.text)
            surface[row] = surface_features(piece.text, int(write["entities"]), len(piece.ids))
        writes["key"] = quantize_key(self.modules.keys(states).numpy())
        writes["logit"] = self.modules.gate(states, surface).numpy()
        return writes


def read_document(
    memory: SessionMemory, encoder: MemoryEncoder, text: str, name: str = "text"
) -> None:
    """Add a whole document to a session, in parts as a client sends them.

    Args:
        memory: Session with the encoder's modules.
        encoder: Encoder of the base model.
        text: The document.
        name: Name of the document.
    """
    for at in range(0, max(len(text), 1), PART_CHARS):
        part = text[at : at + PART_CHARS]
        ends = at + PART_CHARS >= len(text)
        memory.apply(encoder.batch(memory.cursor, part, name, ends=ends))


def surface_features(text: str, entities: int, tokens: int) -> Tensor:
    """Return the gate's features ``[4]`` of a sentence; novelty is 0 until it is written.

    Args:
        text: Characters of the sentence.
        entities: Number of its entities.
        tokens: Number of its tokens.
    """
    features = torch.zeros(GATE_FEATURES)
    features[0] = entities / max(1, len(text.split()))
    features[1] = sum(char.isdigit() for char in text) / max(1, len(text))
    features[NOVELTY_FEATURE] = 0.0
    features[3] = tokens / SLOT_TOKENS
    return features
