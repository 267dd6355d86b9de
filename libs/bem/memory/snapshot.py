"""Snapshot of a session: versioned bytes with a SHA-256, made by one base model and its modules."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from bem.errors import BemError, MemoryFormatError, MemoryMismatchError
from bem.memory.entity_state import HEADS, STATE_BYTES, WIDTH, EntityState
from bem.memory.eviction import Eviction
from bem.memory.modules import MemoryModules
from bem.memory.sentences import MAX_SENTENCE_CHARS
from bem.memory.session import (
    MAX_DOCUMENTS,
    Cursor,
    Document,
    Gate,
    SessionConfig,
    SessionMemory,
    WriteCounts,
)
from bem.memory.slot_format import KEY_WIDTH, MAX_POSITION, SLOT, SLOT_TOKENS, WORD_HASHES
from bem.memory.slot_store import NOVELTY_KEYS

VERSION = 1
"""Version of the format that this code writes and reads."""

_MAGIC = b"BEMMEM"
_HASH_BYTES = 32
_MAX_HEADER = 256 * 1024
_RECENT_BYTES = NOVELTY_KEYS * KEY_WIDTH


def dump(session: SessionMemory, model_version: str) -> bytes:
    """Return a session as bytes; free slots take no room.

    The session's own state is rounded as the snapshot's is, so that both answer alike.

    Args:
        session: Memory of the session.
        model_version: Digests of the base model and of the memory modules.
    """
    session.state = session.state.rounded()
    used = session.store.used()
    header = json.dumps(
        {
            "model": model_version,
            "config": asdict(session.config),
            "documents": [asdict(one) for one in session.documents],
            "cursor": asdict(session.cursor),
            "counts": asdict(session.counts),
            "order": session.store.order,
            "slots": len(used),
        }
    ).encode()
    prefix = _MAGIC + VERSION.to_bytes(2, "little") + len(header).to_bytes(4, "little")
    body = b"".join(
        [
            prefix,
            header,
            session.state.state.half().numpy().tobytes(),
            session.store.recent.tobytes(),
            used.astype("<u4").tobytes(),
            session.store.slots[used].tobytes(),
        ]
    )
    return body + hashlib.sha256(body).digest()


def load(content: bytes, modules: MemoryModules, model_version: str) -> SessionMemory:
    """Return the session of a snapshot.

    Args:
        content: Bytes of ``dump``; they may come from anyone.
        modules: Learned parts that are loaded.
        model_version: Digests of the base model and of the memory modules that are loaded.

    Raises:
        MemoryFormatError: The bytes are no snapshot of this version, or were changed.
        MemoryMismatchError: The snapshot was made with another model.
    """
    header, body = _verified(content)
    if (made := str(header.get("model"))) != model_version:
        raise MemoryMismatchError(
            f"snapshot: was made with {made[:40]}; {model_version} is loaded; ingest the documents "
            "again, or serve the model that made it"
        )
    try:
        session = _session(header, modules)
        _fill(session, header, body)
        _validate(session)
    # Whatever a header may hold in place of the expected values.
    except (BemError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as err:
        raise MemoryFormatError(
            f"snapshot: its content does not fit version {VERSION}: {str(err)[:120]}"
        ) from err
    return session


def snapshot_model(content: bytes) -> str:
    """Return the model version that a snapshot was made with.

    Raises:
        MemoryFormatError: The bytes are no snapshot of this version, or were changed.
    """
    return str(_verified(content)[0].get("model"))


def _verified(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and what follows it, after version and hash were checked."""
    start = len(_MAGIC) + 2 + 4
    if len(content) < start + _HASH_BYTES or not content.startswith(_MAGIC):
        raise MemoryFormatError("snapshot: it does not begin as a snapshot; send Snapshot's bytes")
    version = int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 2], "little")
    if version != VERSION:
        raise MemoryFormatError(f"snapshot: its version is {version}; this service reads {VERSION}")
    body, digest = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise MemoryFormatError("snapshot: its bytes do not have their SHA-256; send it unchanged")
    size = int.from_bytes(body[start - 4 : start], "little")
    if size > _MAX_HEADER:
        raise MemoryFormatError(f"snapshot: its header has {size} bytes; {_MAX_HEADER} is the most")
    try:
        header = json.loads(body[start : start + size])
    except (ValueError, RecursionError) as err:
        raise MemoryFormatError("snapshot: its header is not JSON") from err
    if not isinstance(header, dict):
        raise MemoryFormatError("snapshot: its header is no object")
    return header, body[start + size :]


def _session(header: dict[str, Any], modules: MemoryModules) -> SessionMemory:
    config = SessionConfig(**header["config"])
    session = SessionMemory(
        SessionConfig(
            budget_bytes=int(config.budget_bytes),
            gate=Gate(config.gate),
            eviction=Eviction(config.eviction),
            state=bool(config.state),
            seed=int(config.seed),
        ),
        modules,
    )
    session.documents = [
        Document(str(one["name"]), int(one["begin"]), int(one["end"]), bool(one["complete"]))
        for one in header["documents"]
    ]
    cursor = header["cursor"]
    session.cursor = Cursor(int(cursor["position"]), str(cursor["pending"]))
    session.counts = WriteCounts(**{name: int(n) for name, n in header["counts"].items()})
    session.store.order = int(header["order"])
    return session


def _fill(session: SessionMemory, header: dict[str, Any], body: bytes) -> None:
    count = int(header["slots"])
    expected = STATE_BYTES + _RECENT_BYTES + count * (4 + SLOT.itemsize)
    if not 0 <= count <= len(session.store.slots) or len(body) != expected:
        raise ValueError(f"{count} slots and {len(body)} bytes")
    state = np.frombuffer(body[:STATE_BYTES], "<f2").reshape(HEADS, WIDTH, WIDTH)
    session.state = EntityState(
        session.modules.decay().detach(), torch.from_numpy(state.astype(np.float32))
    )
    recent = body[STATE_BYTES : STATE_BYTES + _RECENT_BYTES]
    session.store.recent = np.frombuffer(recent, np.int8).reshape(NOVELTY_KEYS, KEY_WIDTH).copy()
    at = STATE_BYTES + _RECENT_BYTES
    indices = np.frombuffer(body[at : at + 4 * count], "<u4").astype(np.intp)
    if len(np.unique(indices)) != count or (count and indices.max() >= len(session.store.slots)):
        raise ValueError("slot indices that repeat or exceed the capacity")
    session.store.slots[indices] = np.frombuffer(body[at + 4 * count :], SLOT)
    session.store.refresh()


def _validate(session: SessionMemory) -> None:
    """Check what later code relies on."""
    slots = session.store.slots[session.store.used()]
    orders = slots["order"]
    texts = [len(one.name) for one in session.documents]
    ordered = [0, *(edge for one in session.documents for edge in (one.begin, one.end))]
    problems = {
        "tokens of a slot": bool((slots["tokens"] > SLOT_TOKENS).any()),
        "entities of a slot": bool((slots["entities"] > WORD_HASHES).any()),
        "write numbers": len(np.unique(orders)) != len(orders)
        or bool((orders > session.store.order).any()),
        "write number": not 0 <= session.store.order <= MAX_POSITION,
        "documents": len(texts) > MAX_DOCUMENTS or any(size > _MAX_HEADER for size in texts),
        "offsets of documents": sorted(ordered) != ordered or ordered[-1] > session.cursor.position,
        "position": not 0 <= session.cursor.position <= MAX_POSITION,
        "pending text": len(session.cursor.pending) > MAX_SENTENCE_CHARS,
        "state": not bool(torch.isfinite(session.state.state).all()),
    }
    if wrong := [name for name, is_wrong in problems.items() if is_wrong]:
        raise ValueError(f"{', '.join(wrong)} out of range")
