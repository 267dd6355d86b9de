"""Verification of the audit hash chain."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet.audit_chain import HASH, PREV, SEQ, ChainWriter, read_keys, record_digest, verify_chain

KEY = b"secret"


def chain(count: int, key: bytes = KEY) -> tuple[list[tuple[str, dict[str, str]]], str]:
    """Return a valid chain and its head."""
    records, previous = [], "0" * 64
    for seq in range(1, count + 1):
        fields = {"action": "allow", "score": f"0.{seq}", SEQ: str(seq), PREV: previous}
        fields[HASH] = previous = record_digest(fields, key)
        records.append((f"{seq}-0", fields))
    return records, f"{count}:{previous}"


def test_valid_chain_has_no_fault() -> None:
    """A chain that begins in the middle is valid if the head before it is given."""
    records, head = chain(6)
    before = f"3:{records[2][1][HASH]}"

    assert verify_chain(records, head, (KEY,)) == []
    assert verify_chain(records[3:], head, (KEY,), before) == []
    assert verify_chain([], "", (KEY,)) == []


def _edit(records: list[Any]) -> None:
    records[2][1]["action"] = "filter"


def _drop(records: list[Any]) -> None:
    del records[2]


def _drop_first(records: list[Any]) -> None:
    del records[0]


def _drop_last(records: list[Any]) -> None:
    del records[-1]


def _swap(records: list[Any]) -> None:
    records[1], records[2] = records[2], records[1]


def _insert(records: list[Any]) -> None:
    records.insert(2, ("2-1", {"action": "allow"}))


def _twice(records: list[Any]) -> None:
    records.insert(2, records[1])


def _rehash(records: list[Any]) -> None:
    """Edit a record and rehash it, as an attacker without the key can."""
    fields = records[-1][1]
    fields["action"] = "filter"
    fields[HASH] = record_digest(fields)


@pytest.mark.parametrize(
    "tamper", [_edit, _drop, _drop_first, _drop_last, _swap, _insert, _twice, _rehash]
)
def test_every_tampering_is_detected(tamper: Callable[[list[Any]], None]) -> None:
    """Editing, dropping, moving, inserting and duplicating a record each give a fault."""
    records, head = chain(5)
    tamper(records)

    assert verify_chain(records, head, (KEY,))


def test_dropping_all_records_is_detected() -> None:
    """The head still names the dropped record."""
    _, head = chain(5)

    assert [fault.location for fault in verify_chain([], head, (KEY,))] == ["head"]


def test_a_changed_key_keeps_older_records_valid(tmp_path: Path) -> None:
    """The first line of a key file signs, all verify; a chain without a key is never valid."""
    (tmp_path / "keys").write_text("new\n\nsecret\n")
    keys = read_keys(tmp_path / "keys")
    old, plain = chain(3), chain(3, b"")

    assert keys == (b"new", KEY)
    assert verify_chain(*old, keys) == []
    assert verify_chain(*old, (b"new",))
    assert verify_chain(*plain, keys)
    (tmp_path / "keys").write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        read_keys(tmp_path / "keys")


def test_text_digest_needs_the_key() -> None:
    """Without the key, trying likely texts tells nothing; equal texts have equal digests."""
    digest = hashlib.sha256(b"yes").digest()
    one, other, plain = (ChainWriter("redis://x", "s", key) for key in (KEY, b"other", b""))

    assert one.text_digest(digest) == one.text_digest(digest) != other.text_digest(digest)
    assert len(one.text_digest(digest)) == 64
    assert digest.hex() not in (one.text_digest(digest), other.text_digest(digest))
    assert plain.text_digest(digest) == ""
