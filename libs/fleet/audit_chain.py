"""Tamper-evident audit log: a hash chain over a Redis stream.

Each record carries its sequence number, the hash of the preceding record, and its own hash over
both and all its fields, so that no record can be edited, dropped or moved undetected. The head
(sequence number and hash of the last record) is a key of its own. A script compares the head,
appends and moves the head atomically, so that several writers, also after restarts, make one
chain. With a secret key the hash is an HMAC: write access to Redis is then not enough to forge a
chain. What such access can still do, cut the end off, is detected by ``fleet.audit_anchor``.

Example of two records without a key, hashes shortened::

    {"action": "allow", "seq": "1", "prev": "0000", "hash": "5f2a"}
    {"action": "block", "seq": "2", "prev": "5f2a", "hash": "c81d"}    head: "2:c81d"
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hiredis

from fleet.errors import UnavailableError
from fleet.group_commit import GroupCommit
from fleet.redis_pipe import RedisPipe
from fleet.streams import TIMEOUT_S

SEQ, PREV, HASH = "seq", "prev", "hash"
GENESIS = "0" * 64
# Of writers that race for the head one succeeds each time; the others retry.
_MAX_ATTEMPTS = 64
_MAX_BATCH = 64

_APPEND = """
local head = redis.call('GET', KEYS[2]) or ''
if head ~= ARGV[1] then return {0, head} end
local at = 3
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
redis.call('SET', KEYS[2], ARGV[2])
return {1, ARGV[2]}
"""
_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()


def record_digest(fields: Mapping[str, str], key: bytes = b"") -> str:
    """Return the hash of a record over all fields except the hash itself, hexadecimal.

    Args:
        fields: Fields of the record, with ``seq`` and ``prev``.
        key: Secret of the HMAC; empty for a plain SHA-256.
    """
    hashed = {name: value for name, value in fields.items() if name != HASH}
    raw = json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, raw, "sha256").hexdigest() if key else hashlib.sha256(raw).hexdigest()


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the secrets in a file, one a line: the first signs, all of them verify.

    A key is changed by a new first line; the records before remain valid by the old one.

    Raises:
        ValueError: The file has no key; hashes without one could be forged.
        OSError: The file cannot be read.
    """
    keys = tuple(line.strip() for line in path.read_bytes().splitlines() if line.strip())
    if not keys:
        raise ValueError(f"audit_key_file: {path} is empty; write a random text into it")
    return keys


def derive_key(key: bytes, purpose: str) -> bytes:
    """Return a key for one purpose, so that a value made for another one proves nothing."""
    return hmac.digest(key, purpose.encode(), "sha256")


def head_key(stream: str) -> str:
    """Return the Redis key of a chain's head, ``<sequence number>:<hash>``."""
    return f"{stream}:head"


class ChainWriter:
    """Appends records to one chain.

    Args:
        redis_url: URL of Redis, such as ``redis://127.0.0.1:6379/0``.
        stream: Key of the stream.
        key: Secret of the HMAC; empty for a plain hash.
    """

    def __init__(self, redis_url: str, stream: str, key: bytes = b"") -> None:
        self.stream = stream
        self._key = key
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"stream {stream}")
        self._head: str | None = None
        self._group: GroupCommit[Mapping[str, str], None] = GroupCommit(self._write, _MAX_BATCH)

    def text_digest(self, sha256: bytes) -> str:
        """Return a keyed hash of a text's SHA-256, hexadecimal; empty without a key.

        A plain hash of a short text tells the text to whoever tries all likely ones.
        """
        if not self._key:
            return ""
        return hmac.digest(derive_key(self._key, "text"), sha256, "sha256").hex()

    async def append(self, fields: Mapping[str, str]) -> None:
        """Append one record; records of concurrent callers are appended in one step.

        Raises:
            UnavailableError: Redis did not acknowledge it in time; it may or may not be stored.
            UnicodeEncodeError: A text is not valid Unicode (a lone surrogate); nothing is stored.
        """
        # Before it joins a batch: there it would fail the records of other callers too.
        for text in (*fields, *fields.values()):
            text.encode()
        await self._group.submit(fields)

    async def _write(self, records: Sequence[Mapping[str, str]]) -> list[None]:
        try:
            await self._append_all(records)
        except UnavailableError:
            self._head = None  # unknown: the records may have been written
            raise
        return [None] * len(records)

    async def _append_all(self, records: Sequence[Mapping[str, str]]) -> None:
        for _ in range(_MAX_ATTEMPTS):
            if self._head is None:
                stored = await self._pipe.call("GET", head_key(self.stream))
                self._head = stored.decode() if stored else ""
            head, command = self._link(records, self._head)
            keys = (2, self.stream, head_key(self.stream))
            appended, current = await self._run_script(*keys, self._head, head, *command)
            self._head = current.decode()
            if appended:
                return
        raise UnavailableError(
            f"stream {self.stream}: lost the race for the head {_MAX_ATTEMPTS} times; retry"
        )

    async def _run_script(self, *arguments: str | int) -> tuple[int, bytes]:
        """Run the script by its hash, or by its text if Redis has lost it (restart, flush)."""
        try:
            result: tuple[int, bytes] = await self._pipe.call("EVALSHA", _APPEND_SHA, *arguments)
        except UnavailableError as err:
            if not _script_is_missing(err):
                raise
            result = await self._pipe.call("EVAL", _APPEND, *arguments)
        return result

    def _link(self, records: Sequence[Mapping[str, str]], head: str) -> tuple[str, list[str]]:
        """Return the new head, and for each record the number of its parts and the parts."""
        number, _, previous = head.partition(":")
        seq, previous = int(number or 0), previous or GENESIS
        command: list[str] = []
        for record in records:
            seq += 1
            fields = {**record, SEQ: str(seq), PREV: previous}
            fields[HASH] = previous = record_digest(fields, self._key)
            parts = [part for pair in fields.items() for part in pair]
            command += [str(len(parts)), *parts]
        return f"{seq}:{previous}", command

    async def ping(self) -> None:
        """Check that Redis responds.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self._pipe.call("PING")

    async def close(self) -> None:
        """Close the connection."""
        self._pipe.close()


def _script_is_missing(err: UnavailableError) -> bool:
    cause = err.__cause__
    return isinstance(cause, hiredis.ReplyError) and str(cause).startswith("NOSCRIPT")


@dataclass(frozen=True)
class ChainFault:
    """Fault of a chain.

    Attributes:
        location: Stream id of the record, or ``head``.
        problem: Description of the fault.
    """

    location: str
    problem: str


def verify_chain(
    records: Iterable[tuple[str, Mapping[str, str]]],
    head: str,
    keys: Sequence[bytes] = (),
    start: str = "",
) -> list[ChainFault]:
    """Return all faults of a chain; empty if the chain is valid.

    Args:
        records: Stream id and fields of each record, in the order of the stream.
        head: Value of the head's key; empty if it does not exist.
        keys: Secrets of the writers' HMAC, any of which a record may have; none for plain hashes.
        start: Head before the first of ``records``; empty for a complete chain.
    """
    faults = []
    number, _, previous = start.partition(":")
    seq, previous = int(number or 0), previous or GENESIS
    for location, fields in records:
        if not fields.get(SEQ, "").isdecimal() or HASH not in fields:
            faults.append(ChainFault(location, "not a chain record: no sequence number or hash"))
            continue
        own = int(fields[SEQ])
        if own != seq + 1:
            faults.append(ChainFault(location, f"sequence number {own}, expected {seq + 1}"))
        elif fields.get(PREV) != previous:
            faults.append(ChainFault(location, f"record {own} does not link to the one before it"))
        if not _has_valid_hash(fields, keys or (b"",)):
            faults.append(ChainFault(location, f"record {own} was edited: hash mismatch"))
        # Continue from the record as it is, so that one fault is reported once.
        seq, previous = own, fields[HASH]
    expected = f"{seq}:{previous}" if seq else ""
    if head != expected:
        names, last = head[:24] or "nothing", expected[:24] or "none"
        faults.append(ChainFault("head", f"head is {names}, last record is {last}"))
    return faults


def _has_valid_hash(fields: Mapping[str, str], keys: Sequence[bytes]) -> bool:
    return any(
        hmac.compare_digest(record_digest(fields, key).encode(), fields[HASH].encode())
        for key in keys
    )
