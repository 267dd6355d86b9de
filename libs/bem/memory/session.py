"""Session memory: slots, entity state and documents of one session, in constant bytes.

A session changes by write batches, reads and removals only. It holds no model: encoding is done by
``bem.memory.encoder`` and the answer is written by a reader.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import torch

from bem.errors import InvalidRequestError
from bem.memory.entity_state import ENTITIES_PER_SLOT, EntityState
from bem.memory.eviction import Eviction
from bem.memory.modules import MemoryModules
from bem.memory.retrieval import Question, Retrieved, retrieve
from bem.memory.slot_format import MAX_POSITION, quantize_salience
from bem.memory.slot_store import DEFAULT_BUDGET, SlotStore, slot_count
from bem.memory.write_batch import WriteBatch

MAX_DOCUMENTS = 64
"""Documents that a session names at one time."""

MAX_NAME_BYTES = 120
"""Longest name of a document, in bytes of UTF-8."""


class Gate(StrEnum):
    """What decides a sentence's salience."""

    LEARNED = "learned"
    """The write gate."""
    NOVELTY = "novelty"
    """How unlike the latest sentences it is."""
    RANDOM = "random"
    """A pseudo-random number of its place."""
    NONE = "none"
    """Nothing: all sentences are equally salient."""


@dataclass(frozen=True)
class SessionConfig:
    """What a session is made of; it never changes.

    Attributes:
        budget_bytes: Bytes of the session, 64 KiB to 64 MiB.
        gate: What decides salience.
        eviction: Which slot a new sentence takes.
        state: Whether the entity state is written and read.
        seed: Seed of random choices.
    """

    budget_bytes: int = DEFAULT_BUDGET
    gate: Gate = Gate.LEARNED
    eviction: Eviction = Eviction.LEARNED
    state: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Document:
    """A document of a session.

    Attributes:
        name: Name that the client gave.
        begin: Offset of its first character in the session's text.
        end: Offset after its last character so far.
        complete: Whether it has ended.
    """

    name: str
    begin: int
    end: int
    complete: bool = False


@dataclass
class WriteCounts:
    """Counts of a session's sentences since its beginning.

    Attributes:
        written: Sentences that were offered.
        dropped: Sentences that the full memory did not keep.
        evicted: Slots that were overwritten.
        forgotten: Slots that were removed by a request.
    """

    written: int = 0
    dropped: int = 0
    evicted: int = 0
    forgotten: int = 0


@dataclass
class Cursor:
    """End of a session's text.

    Attributes:
        position: Characters of all documents so far.
        pending: End of the open document that is not yet a sentence.
    """

    position: int = 0
    pending: str = ""


@dataclass
class SessionMemory:
    """Memory of one session.

    Attributes:
        config: What the session is made of.
        modules: Learned parts.
        store: Slots of the session and their eviction policy.
        state: Entity state.
        documents: Documents in the order of the text.
        cursor: End of the text.
        counts: Counts of sentences.
    """

    config: SessionConfig
    modules: MemoryModules
    store: SlotStore = field(init=False)
    state: EntityState = field(init=False)
    documents: list[Document] = field(default_factory=list)
    cursor: Cursor = field(default_factory=Cursor)
    counts: WriteCounts = field(default_factory=WriteCounts)

    def __post_init__(self) -> None:
        config = self.config
        self.store = SlotStore(slot_count(config.budget_bytes), config.eviction, config.seed)
        self.state = EntityState(self.modules.decay().detach())

    @property
    def size_bytes(self) -> int:
        """Bytes of the session, which are the same however long its text is."""
        return self.config.budget_bytes

    @property
    def open_document(self) -> Document | None:
        """The document that has not ended; None if there is none."""
        last = self.documents[-1] if self.documents else None
        return last if last is not None and not last.complete else None

    def check_document(self, name: str) -> None:
        """Check that a new document may have this name.

        Raises:
            InvalidRequestError: The name is empty, too long or in use, or there are too many.
        """
        size = len(name.encode("utf-8", "replace"))
        if not name.strip() or size > MAX_NAME_BYTES:
            raise InvalidRequestError(
                "document", f"has {size} bytes; 1 to {MAX_NAME_BYTES} are allowed; change it"
            )
        if any(one.name == name for one in self.documents):
            raise InvalidRequestError(
                "document", f"{name!r} is complete in this session; forget it first, or rename it"
            )
        if len(self.documents) >= MAX_DOCUMENTS:
            raise InvalidRequestError(
                "document",
                f"the session has {MAX_DOCUMENTS} documents, which is the limit; forget some",
            )

    def apply(self, batch: WriteBatch) -> None:
        """Add a batch; the result depends on the session and the batch alone.

        Raises:
            InvalidRequestError: The session's text has reached its largest length.
        """
        if batch.position > MAX_POSITION:
            raise InvalidRequestError(
                "text", f"the session has {batch.position} characters; {MAX_POSITION} is the limit"
            )
        self._extend_document(batch)
        mentions: list[tuple[int, int, float]] = []
        for write in batch.writes:
            salience = self._salience(write)
            index, evicted = self.store.write(write, quantize_salience(salience))
            self.counts.written += 1
            self.counts.dropped += index is None
            self.counts.evicted += evicted
            if index is not None:
                mentions += _mentions(write, self.store.order, salience)
        if self.config.state:
            self.state.write(mentions)
        self.cursor = Cursor(batch.position, batch.pending)

    def retrieve(self, question: Question, *, hops: int = 2) -> Retrieved:
        """Return the evidence for a question and count its slots as read."""
        evidence = retrieve(
            self.store.slots,
            self.store.used(),
            self.state if self.config.state else None,
            question,
            self.modules.score_weights(),
            hops=hops,
        )
        self.store.touch(evidence.indices)
        return evidence

    def confidence(self, evidence: Retrieved) -> float:
        """Return the probability that the evidence answers its question."""
        return float(self.modules.confidences(torch.from_numpy(evidence.features)[None])[0])

    def document_at(self, offset: int) -> Document | None:
        """Return the document that has a character of the session's text; None if none has."""
        for one in self.documents:
            if one.begin <= offset < max(one.end, one.begin + 1):
                return one
        return None

    def forget(self, name: str | None = None) -> int:
        """Remove a document, or everything, and return how many slots were freed.

        The state is made again from the slots that remain, so that nothing of the removed ones is
        left in it.

        Args:
            name: Name of the document; None for the whole session.

        Raises:
            InvalidRequestError: There is no such document.
        """
        removed = [one for one in self.documents if name is None or one.name == name]
        if name is not None and not removed:
            raise InvalidRequestError(
                "document", f"{name[:MAX_NAME_BYTES]!r} is not in this session; list its documents"
            )
        begins = self.store.slots["begin"]
        inside = np.zeros(len(begins), bool)
        for one in removed:
            inside |= (begins >= one.begin) & (begins < one.end)
        indices = np.flatnonzero(inside & (self.store.slots["order"] > 0))
        self.store.clear(indices)
        # Which of the latest keys were the document's is not known: none is kept.
        self.store.recent[:] = 0
        if self.open_document in removed:
            self.cursor = replace(self.cursor, pending="")
        self.documents = [one for one in self.documents if one not in removed]
        self.counts.forgotten += len(indices)
        self._rebuild_state()
        return len(indices)

    def _salience(self, write: np.void) -> float:
        if self.config.gate is Gate.NONE:
            return 0.5
        if self.config.gate is Gate.RANDOM:
            generator = np.random.default_rng([self.config.seed, self.store.order])
            return float(generator.random())
        novelty = self.store.novelty(write["key"])
        if self.config.gate is Gate.NOVELTY:
            return novelty
        logit = float(write["logit"]) + self.modules.novelty_weight() * novelty
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))

    def _extend_document(self, batch: WriteBatch) -> None:
        opened = self.open_document
        if opened is None or opened.name != batch.document:
            if opened is not None:
                self.documents[-1] = replace(opened, complete=True)
            opened = Document(batch.document, self.cursor.position, self.cursor.position)
            self.documents.append(opened)
        self.documents[-1] = replace(opened, end=batch.position, complete=batch.ends)

    def _rebuild_state(self) -> None:
        self.state = EntityState(self.modules.decay().detach())
        if not self.config.state:
            return
        mentions: list[tuple[int, int, float]] = []
        for slot in self.store.slots[self.store.used()]:
            mentions += _mentions(slot, int(slot["order"]), int(slot["salience"]) / 255)
        self.state.write(mentions)


def _mentions(sentence: np.void, order: int, strength: float) -> list[tuple[int, int, float]]:
    """Return the entities of a sentence as the state takes them."""
    words = sentence["words"][: min(int(sentence["entities"]), ENTITIES_PER_SLOT)]
    return [(int(word), order, strength) for word in words]
