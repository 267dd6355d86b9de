"""Verification of the audit log in a real Redis, with anchors outside it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from fleet.audit_anchor import Anchor
from fleet.audit_chain import HASH, SEQ, ChainWriter, head_key
from fleet.audit_log import LogReader, find_newest, verify_log
from fleet.testing import RedisServer

STREAM, KEYS = "bem:audit", (b"secret",)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    """A client of the store."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as opened:
        yield opened


async def append(url: str, count: int, action: str = "allow") -> None:
    """Append records as a sidecar does."""
    writer = ChainWriter(url, STREAM, KEYS[0])
    for n in range(count):
        await writer.append({"n": str(n), "action": action})
    await writer.close()


def anchor_of(client: Any, place: int) -> Anchor:
    """Return the anchor of a record by its place in the stream."""
    identifier, fields = client.xrange(STREAM)[place]
    return Anchor(int(fields[SEQ]), fields[HASH], identifier)


def faults(client: Any, *anchors: Anchor) -> str:
    """Return the faults of the log as one text."""
    report = verify_log(client, STREAM, KEYS, "", [Anchor(), *anchors])
    return "; ".join(f"{fault.location}: {fault.problem}" for fault in report.faults)


async def test_valid_log_agrees_with_its_anchors(redis_server: RedisServer, client: Any) -> None:
    """Records after the last anchor are no fault; trimmed ones are none with their head."""
    empty = verify_log(client, STREAM, KEYS, "", [Anchor()])
    await append(redis_server.url, 6)
    report = verify_log(client, STREAM, KEYS, "", [Anchor(), anchor_of(client, 3)])
    alone = verify_log(client, STREAM, KEYS)
    first, old = anchor_of(client, 1), anchor_of(client, 3)
    client.xtrim(STREAM, maxlen=4, approximate=False)
    trimmed = verify_log(client, STREAM, KEYS, first.head, [first, old])

    assert (empty.faults, empty.records, empty.unanchored) == ([], 0, 0)
    assert (report.faults, report.records, report.unanchored) == ([], 6, 2)
    assert (alone.faults, alone.unanchored) == ([], None)
    assert (trimmed.faults, trimmed.records) == ([], 4)


async def test_newest_records_are_found_by_their_fields(
    redis_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes back over pages, and ends at the number that was asked for."""
    monkeypatch.setattr("fleet.audit_log._PAGE_RECORDS", 3)
    await append(redis_server.url, 4, "block")
    await append(redis_server.url, 7)
    blocked = find_newest(client, STREAM, 3, {"action": "block"})
    one = find_newest(client, STREAM, 5, {"action": "allow", "n": "2"})
    everything = find_newest(client, STREAM, 100, {})

    assert [found["n"] for found in blocked] == ["3", "2", "1"]
    assert [(found["action"], found["n"]) for found in one] == [("allow", "2")]
    assert len(everything) == 11
    assert [found["id"] for found in everything] == [
        identifier for identifier, _ in client.xrevrange(STREAM)
    ]


def _empty(client: Any) -> None:
    client.delete(STREAM, head_key(STREAM))


def _rewind(client: Any) -> None:
    rows = client.xrange(STREAM)
    client.xdel(STREAM, *(identifier for identifier, _ in rows[3:]))
    client.set(head_key(STREAM), anchor_of(client, 2).head)


def _trim_all(client: Any) -> None:
    client.xtrim(STREAM, maxlen=0, approximate=False)
    client.delete(head_key(STREAM))


@pytest.mark.parametrize(
    ("attack", "named"), [(_empty, "empty"), (_rewind, "ends at record 3"), (_trim_all, "empty")]
)
async def test_cut_log_is_detected_by_its_anchors_only(
    redis_server: RedisServer, client: Any, attack: Callable[[Any], None], named: str
) -> None:
    """Whoever may write to Redis takes the head along, so that the chain alone is valid."""
    await append(redis_server.url, 6)
    seen = anchor_of(client, 4)
    attack(client)

    assert verify_log(client, STREAM, KEYS).faults == []
    assert named in faults(client, seen)


async def test_log_that_was_made_anew_is_detected(redis_server: RedisServer, client: Any) -> None:
    """Even a sidecar with the key cannot replace what was seen, however many records follow."""
    await append(redis_server.url, 6)
    seen = anchor_of(client, 4)
    _empty(client)
    await append(redis_server.url, 9, "filter")

    assert verify_log(client, STREAM, KEYS).faults == []
    assert "record 5 is not the one that was seen" in faults(client, seen)


async def test_reader_sees_one_moment(redis_server: RedisServer, client: Any) -> None:
    """Records that are appended while the log is read belong to the next look."""
    await append(redis_server.url, 3)
    reader = LogReader(client, STREAM)
    await append(redis_server.url, 2)
    records = [record for page in reader.pages() for record in page]

    assert [fields[SEQ] for _, fields in records] == ["1", "2", "3"]
    assert reader.head == anchor_of(client, 2).head
    assert reader.at(records[0][0]) == records[0][1]
    assert reader.at("9999999999999-9") == reader.at("") == {}
