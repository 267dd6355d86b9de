"""Tests of snapshots: round trip, versions, hashes, hostile bytes."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from bem.errors import MemoryFormatError, MemoryMismatchError
from bem.memory import snapshot
from bem.memory.session import SessionMemory

from tests.unit.bem.memory.sessions import (
    MIN_CONFIG,
    answers,
    encoder,
    haystack,
    ingest,
    session,
)

MODEL = "m1"


def example() -> SessionMemory:
    """Return a session with two documents, the second open."""
    memory = session(MIN_CONFIG)
    ingest(memory, haystack(50) + "The code of Rina is 4711.\n")
    memory.apply(encoder().batch(memory.cursor, "Ada left. Then", "open", ends=False))
    return memory


def forged(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a snapshot whose header was changed and whose hash fits."""
    content = snapshot.dump(example(), MODEL)[:-32]
    size = int.from_bytes(content[8:12], "little")
    header = json.loads(content[12 : 12 + size])
    change(header)
    raw = json.dumps(header).encode()
    body = content[:8] + len(raw).to_bytes(4, "little") + raw + content[12 + size :]
    return body + hashlib.sha256(body).digest()


def test_restored_session_goes_on_as_the_original() -> None:
    """Bytes are the same again, and later text and questions give the same session."""
    memory = example()
    content = snapshot.dump(memory, MODEL)
    restored = snapshot.load(content, encoder().modules, MODEL)
    for one in (memory, restored):
        ingest(one, haystack(60, 500), "open")

    assert snapshot.dump(restored, MODEL) == snapshot.dump(memory, MODEL)
    assert answers(restored, "What is the code of Rina?") == answers(
        memory, "What is the code of Rina?"
    )
    assert len(content) < memory.size_bytes
    assert snapshot.snapshot_model(content) == MODEL


def test_changed_bytes_versions_and_models_are_refused() -> None:
    """A flipped bit, another version, another file and another model are named."""
    content = snapshot.dump(example(), MODEL)
    cases = {
        "do not have their SHA-256": content[:500] + bytes([content[500] ^ 1]) + content[501:],
        "its version is 9; this service reads 1": content[:6] + b"\x09\0" + content[8:],
        "does not begin as a snapshot": b"PK" + content,
    }
    for problem, wrong in cases.items():
        with pytest.raises(MemoryFormatError, match=problem):
            snapshot.load(wrong, encoder().modules, MODEL)
    with pytest.raises(MemoryMismatchError, match="was made with m1; m2 is loaded"):
        snapshot.load(content, encoder().modules, "m2")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(slots=10**9),
        lambda h: h["config"].update(budget_bytes=2**62),
        lambda h: h["config"].update(gate="other"),
        lambda h: h["cursor"].update(position=-5),
        lambda h: h["cursor"].update(pending="x" * 5000),
        lambda h: h["documents"][0].update(begin=10**6),
        lambda h: h.update(order=0),
        lambda h: h.update(documents=7),
        lambda h: h.pop("counts"),
    ],
)
def test_hostile_headers_are_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """A header that fits its hash but not the session is an error, never a broken session."""
    with pytest.raises(MemoryFormatError, match="does not fit version 1"):
        snapshot.load(forged(change), encoder().modules, MODEL)
