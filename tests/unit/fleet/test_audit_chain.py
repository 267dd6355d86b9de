"""The hash chain: what it finds."""

from collections.abc import Callable
from typing import Any

import pytest
from fleet.audit_chain import HASH, PREV, SEQ, digest_of, faults

KEY = b"secret"


def chain(count: int, key: bytes = KEY) -> tuple[list[tuple[str, dict[str, str]]], str]:
    """Return a whole chain and its head."""
    records, previous = [], "0" * 64
    for seq in range(1, count + 1):
        fields = {"action": "allow", "score": f"0.{seq}", SEQ: str(seq), PREV: previous}
        fields[HASH] = previous = digest_of(fields, key)
        records.append((f"{seq}-0", fields))
    return records, f"{count}:{previous}"


def test_whole_chain_has_no_fault() -> None:
    """Also one that begins in the middle, if the head before it is known."""
    records, head = chain(6)
    before = f"3:{records[2][1][HASH]}"

    assert faults(records, head, KEY) == []
    assert faults(records[3:], head, KEY, before) == []
    assert faults([], "", KEY) == []


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
    """Edit a record and give it a hash that fits, as one without the key can."""
    fields = records[-1][1]
    fields["action"] = "filter"
    fields[HASH] = digest_of(fields)


@pytest.mark.parametrize(
    "damage", [_edit, _drop, _drop_first, _drop_last, _swap, _insert, _twice, _rehash]
)
def test_every_damage_is_found(damage: Callable[[list[Any]], None]) -> None:
    """Edited, dropped, moved, added or doubled: each is a fault."""
    records, head = chain(5)
    damage(records)

    assert faults(records, head, KEY)


def test_dropping_everything_is_found() -> None:
    """The head outlives the stream."""
    _, head = chain(5)

    assert [fault.place for fault in faults([], head, KEY)] == ["head"]
