"""Verification of the audit log in Redis: its hash chain, and its anchors outside Redis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.audit_anchor import Anchor
from fleet.audit_chain import HASH, SEQ, ChainFault, head_key, verify_chain

_PAGE_RECORDS = 1000
Record = tuple[str, Mapping[str, str]]


@dataclass(frozen=True)
class LogReport:
    """Result of a verification.

    Attributes:
        faults: All faults; none if the log is valid.
        records: Number of records read.
        head: Head of the chain; empty for an empty one.
        unanchored: Number of records after the last anchor; None without anchors.
    """

    faults: Sequence[ChainFault]
    records: int
    head: str
    unanchored: int | None


class LogReader:
    """Reads the log as it is at one moment; records that are appended meanwhile are left out.

    Args:
        client: Redis client that decodes replies.
        stream: Key of the stream.
    """

    def __init__(self, client: Any, stream: str) -> None:
        self._client, self._stream = client, stream
        pipe = client.pipeline(transaction=True)  # head and last record must be of the same moment
        pipe.get(head_key(stream))
        pipe.xrevrange(stream, count=1)
        head, last = pipe.execute()
        self.head: str = head or ""
        self._last_id: str = last[0][0] if last else ""

    def at(self, identifier: str) -> Mapping[str, str]:
        """Return the record with a stream id; empty if it does not exist."""
        found = self._client.xrange(self._stream, identifier, identifier) if identifier else []
        return found[0][1] if found else {}

    def pages(self, after: str = "") -> Iterator[list[Record]]:
        """Yield the records after a stream id, oldest first, in pages."""
        start = f"({after}" if after else "-"
        while self._last_id:
            page = self._client.xrange(self._stream, start, self._last_id, count=_PAGE_RECORDS)
            if not page:
                return
            yield page
            start = f"({page[-1][0]}"


def find_newest(
    client: Any, stream: str, count: int, wanted: Mapping[str, str]
) -> list[Mapping[str, str]]:
    """Return the newest records that have given fields, newest first; ``id`` is the stream's.

    Args:
        client: Redis client that decodes replies.
        stream: Key of the stream.
        count: Largest number of records.
        wanted: Values of fields that a record must have.

    Raises:
        redis.RedisError: Redis cannot be read.
    """
    found: list[Mapping[str, str]] = []
    end = "+"
    while page := client.xrevrange(stream, end, count=_PAGE_RECORDS):
        for identifier, fields in page:
            if wanted.items() <= fields.items():
                found.append({"id": identifier, **fields})
            if len(found) == count:
                return found
        end = f"({page[-1][0]}"
    return found


def verify_log(
    client: Any,
    stream: str,
    keys: Sequence[bytes] = (),
    start: str = "",
    anchors: Sequence[Anchor] | None = None,
) -> LogReport:
    """Check every record of a log, and that no anchored record is missing.

    Args:
        client: Redis client that decodes replies.
        stream: Key of the stream.
        keys: Secrets of the writers' HMAC; none for plain hashes.
        start: Head before the first record; empty for a log from its beginning.
        anchors: Anchors that were read before this call; None checks the chain alone.

    Raises:
        redis.RedisError: Redis cannot be read.
    """
    reader = LogReader(client, stream)
    anchored = {anchor.seq: anchor.hash for anchor in anchors or () if anchor.seq}
    seen: dict[int, str] = {}
    first, last, count = 0, 0, 0

    def records() -> Iterator[Record]:
        nonlocal first, last, count
        for record in (record for page in reader.pages() for record in page):
            count += 1
            if (seq := record[1].get(SEQ, "")).isdecimal():
                last = int(seq)
                first = first or last
                if last in anchored:
                    seen[last] = record[1].get(HASH, "")
            yield record

    faults = verify_chain(records(), reader.head, keys, start)
    if anchors is None:
        return LogReport(faults, count, reader.head, None)
    newest = max(anchored, default=0)
    faults += _anchor_faults(anchored, seen, first, last)
    return LogReport(faults, count, reader.head, max(last - newest, 0))


def _anchor_faults(
    anchored: Mapping[int, str], seen: Mapping[int, str], first: int, last: int
) -> Iterator[ChainFault]:
    """Yield a fault for the newest missing anchor, and for the oldest one that differs."""
    newest = max(anchored, default=0)
    if newest > last:
        state = f"it ends at record {last}" if last else "it is empty"
        yield ChainFault("anchor", f"the log was cut: {state}, but record {newest} was seen in it")
    for seq in sorted(anchored):
        if first <= seq <= last and seen.get(seq) != anchored[seq]:
            yield ChainFault(
                "anchor", f"the log was made anew: record {seq} is not the one that was seen"
            )
            return
