"""Long memory: text slots and a delta-rule state of constant bytes, and retrieval with citations.

A session (``session``) changes by write batches, which an encoder makes of text with the base
model. Learned parts are in ``modules``, with an artifact of their own. ADR 0041 has the reasons.
"""

from bem.memory.encoder import EmbeddingStates, MemoryEncoder
from bem.memory.eviction import Eviction
from bem.memory.modules import MemoryModules
from bem.memory.session import Document, Gate, SessionConfig, SessionMemory
from bem.memory.slot_tokens import SlotTokenizer
from bem.memory.write_batch import WriteBatch

__all__ = [
    "Document",
    "EmbeddingStates",
    "Eviction",
    "Gate",
    "MemoryEncoder",
    "MemoryModules",
    "SessionConfig",
    "SessionMemory",
    "SlotTokenizer",
    "WriteBatch",
]
