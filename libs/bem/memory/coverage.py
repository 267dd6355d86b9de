"""Coverage: which spans of a session's documents can still be answered, and how surely."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bem.memory.retrieval import WordRarity, superseded
from bem.memory.session import SessionMemory
from bem.memory.slot_tokens import SlotTokenizer

_ROWS = 512


@dataclass(frozen=True)
class CoveredSpan:
    """A span that the memory keeps.

    Attributes:
        document: Name of the document.
        begin: Offset of the first character in the document.
        end: Offset after the last character.
        confidence: Probability that a question about it finds it, in [0, 1].
        superseded: Whether a later sentence gives another value for the same thing.
    """

    document: str
    begin: int
    end: int
    confidence: float
    superseded: bool


def covered_spans(
    session: SessionMemory, tokenizer: SlotTokenizer, *, after: int = 0, limit: int = 500
) -> tuple[list[CoveredSpan], int | None]:
    """Return kept spans in the order of the text.

    Args:
        session: Memory of the session.
        tokenizer: Tokenizer that made its slots.
        after: Number of slots to leave out at the beginning.
        limit: Most slots to look at.

    Returns:
        Spans, of which those that follow each other with the same state are joined; and the value
        of ``after`` for what follows, None at the end.
    """
    used = session.store.used()
    part = used[after : after + limit]
    confidences = slot_coverage(session, part)
    spans: list[CoveredSpan] = []
    for index, confidence in zip(part, confidences, strict=True):
        slot = session.store.slots[index]
        document = session.document_at(int(slot["begin"]))
        if document is None:  # the text was forgotten while its last sentence was written
            continue
        begin = int(slot["begin"]) - document.begin
        text = tokenizer.text(slot["ids"][: slot["tokens"]].tolist())
        old = superseded(session.store.slots, used, int(index))
        one = CoveredSpan(document.name, begin, begin + len(text), float(confidence), old)
        if spans and _continues(spans[-1], one):
            one = _joined(spans.pop(), one)
        spans.append(one)
    following = after + len(part)
    return spans, following if following < len(used) else None


def slot_coverage(session: SessionMemory, indices: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the probability that a question about each slot finds it, ``[N]`` in [0, 1].

    Args:
        session: Memory of the session.
        indices: Slots in use.
    """
    if not len(indices):
        return np.zeros(0, np.float32)
    features = coverage_features(session, indices)
    result: NDArray[np.float32] = session.modules.coverages(torch.from_numpy(features)).numpy()
    return result


def coverage_features(session: SessionMemory, indices: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return salience, rarity of the rarest word, and distance to the nearest slot, ``[N, 3]``."""
    slots, used = session.store.slots, session.store.used()
    rarity = WordRarity(slots[used])
    highest = max(float(np.log1p(2 * len(used) + 1)), 1e-6)
    keys = slots["key"][used].astype(np.float32) / 127.0
    features = np.zeros((len(indices), 3), np.float32)
    features[:, 0] = slots["salience"][indices] / 255.0
    for row, index in enumerate(indices):
        words = [word for word in slots["words"][index].tolist() if word]
        features[row, 1] = max((rarity.weight(word) for word in words), default=0.0) / highest
    for begin in range(0, len(indices), _ROWS):
        rows = indices[begin : begin + _ROWS]
        cosines = (slots["key"][rows].astype(np.float32) / 127.0) @ keys.T
        cosines[rows[:, None] == used[None, :]] = -1.0
        features[begin : begin + _ROWS, 2] = 1.0 - np.clip(cosines.max(1), 0.0, 1.0)
    return features


def _continues(last: CoveredSpan, one: CoveredSpan) -> bool:
    same_state = last.superseded == one.superseded and not one.superseded
    return last.document == one.document and last.end == one.begin and same_state


def _joined(last: CoveredSpan, one: CoveredSpan) -> CoveredSpan:
    """Return both spans as one, with the mean of their confidences by length."""
    lengths = last.end - last.begin, one.end - one.begin
    total = lengths[0] * last.confidence + lengths[1] * one.confidence
    confidence = total / max(1, sum(lengths))
    return CoveredSpan(last.document, last.begin, one.end, confidence, superseded=False)
