"""Sessions of the tiny model, and texts for them."""

from functools import cache

from bem.backbone import Backbone
from bem.memory import (
    EmbeddingStates,
    MemoryEncoder,
    MemoryModules,
    SessionConfig,
    SessionMemory,
    SlotTokenizer,
)
from bem.testing import tiny_backbone

MIN_CONFIG = SessionConfig(budget_bytes=64 * 1024)
"""Smallest session, of some 30 slots."""


@cache
def backbone() -> Backbone:
    """Return the tiny model."""
    return tiny_backbone()


@cache
def encoder() -> MemoryEncoder:
    """Return an encoder of the tiny model with untrained modules."""
    states = EmbeddingStates(backbone())
    modules = MemoryModules(states.width).requires_grad_(requires_grad=False)
    return MemoryEncoder(SlotTokenizer(backbone().tokenizer), states, modules)


def session(config: SessionConfig | None = None) -> SessionMemory:
    """Return an empty session of 1 MiB."""
    return SessionMemory(config or SessionConfig(), encoder().modules)


def ingest(memory: SessionMemory, text: str, name: str = "book", part: int = 10_000) -> None:
    """Add a document in parts of ``part`` characters."""
    parts = [text[at : at + part] for at in range(0, len(text), part)] or [""]
    for number, one in enumerate(parts, 1):
        batch = encoder().batch(memory.cursor, one, name, ends=number == len(parts))
        memory.apply(batch)


def texts(memory: SessionMemory) -> list[str]:
    """Return the texts of all slots in the order of the text."""
    tokenizer = encoder().tokenizer
    slots = memory.store.slots[memory.store.used()]
    return [tokenizer.text(slot["ids"][: slot["tokens"]].tolist()) for slot in slots]


def answers(memory: SessionMemory, question: str, *, hops: int = 2) -> list[str]:
    """Return the texts of the evidence for a question."""
    evidence = memory.retrieve(encoder().question(question), hops=hops)
    tokenizer = encoder().tokenizer
    slots = memory.store.slots[evidence.indices]
    return [tokenizer.text(slot["ids"][: slot["tokens"]].tolist()) for slot in slots]


def haystack(sentences: int, start: int = 0) -> str:
    """Return sentences without entities, each with two words of its own."""
    return "".join(
        f"the {'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyzabcd'[n // 100 % 10]}o "
        f"was quite {'zyxwvutsrq'[n % 7]}{'ponmlkjihg'[n // 7 % 10]}e.\n"
        for n in range(start, start + sentences)
    )
