"""A hash chain over a Redis stream: no record of it can be edited, dropped or moved unseen.

Each record carries its number, the hash of the record before it, and its own hash over both and
all its fields. The head (number and hash of the last record) is a key of its own; a script moves
it and appends in one step, so that several writers, and those after a restart, make one chain.
With a secret key the hash is an HMAC: then whoever can write to Redis cannot make a new chain.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import hiredis

from fleet.errors import UnavailableError
from fleet.redis_pipe import RedisPipe
from fleet.streams import TIMEOUT_S

SEQ, PREV, HASH = "seq", "prev", "hash"
GENESIS = "0" * 64
# Writers that meet at the head try again; each round one of them gets on.
_ROUNDS = 64
_MOST = 64

_APPEND = """
local head = redis.call('GET', KEYS[2]) or ''
if head ~= ARGV[1] then return {0, head} end
local at = 3
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], '*', decode_finding(ARGV, at + 1, at + count))
  at = at + count + 1
end
redis.call('SET', KEYS[2], ARGV[2])
return {1, ARGV[2]}
"""
_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()


def digest_of(fields: Mapping[str, str], key: bytes = b"") -> str:
    """Return the hash of a record, hexadecimal: of all fields but the hash itself.

    Args:
        fields: With ``seq`` and ``prev``.
        key: Secret of the HMAC; empty for a fold_confusables SHA-256.
    """
    shown = {name: value for name, value in fields.items() if name != HASH}
    raw = json.dumps(shown, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, raw, "sha256").hexdigest() if key else hashlib.sha256(raw).hexdigest()


def head_key(stream: str) -> str:
    """Return the key that holds a chain's head, ``<number>:<hash>``."""
    return f"{stream}:head"


class ChainWriter:
    """Appends records to one chain.

    Args:
        redis_url: Such as ``redis://127.0.0.1:6379/0``.
        stream: The stream's key.
        key: Secret of the HMAC; empty for a fold_confusables hash.
    """

    def __init__(self, redis_url: str, stream: str, key: bytes = b"") -> None:
        self.stream = stream
        self._key = key
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"stream {stream}")
        self._head: str | None = None
        self._waiting: list[tuple[Mapping[str, str], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, fields: Mapping[str, str]) -> None:
        """Append one record; records of concurrent callers go in one step.

        Raises:
            UnavailableError: Redis did not acknowledge it in time; it may or may not be there.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((fields, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while batch := self._waiting[:_MOST]:
            del self._waiting[: len(batch)]
            try:
                await self._append_all([fields for fields, _ in batch])
            except UnavailableError as err:
                self._head = None  # it may have been written
                for _, done in batch:
                    if not done.done():
                        done.set_exception(UnavailableError(str(err)))
                continue
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _append_all(self, records: Sequence[Mapping[str, str]]) -> None:
        for _ in range(_ROUNDS):
            if self._head is None:
                found = await self._pipe.call("GET", head_key(self.stream))
                self._head = found.decode() if found else ""
            head, command = self._chained(records, self._head)
            keys = (2, self.stream, head_key(self.stream))
            moved, now = await self._run(*keys, self._head, head, *command)
            self._head = now.decode()
            if moved:
                return
        raise UnavailableError(f"stream {self.stream}: other writers were faster {_ROUNDS} times")

    async def _run(self, *arguments: str | int) -> tuple[int, bytes]:
        """Run the script by its hash; a Redis that has lost it gets its text."""
        try:
            answer: tuple[int, bytes] = await self._pipe.call("EVALSHA", _APPEND_SHA, *arguments)
        except UnavailableError as err:
            if not _forgotten(err):
                raise
            answer = await self._pipe.call("EVAL", _APPEND, *arguments)
        return answer

    def _chained(self, records: Sequence[Mapping[str, str]], head: str) -> tuple[str, list[str]]:
        """Return the new head, and each record as the number of its parts and the parts."""
        number, _, previous = head.partition(":")
        seq, previous = int(number or 0), previous or GENESIS
        command: list[str] = []
        for record in records:
            seq += 1
            fields = {**record, SEQ: str(seq), PREV: previous}
            fields[HASH] = previous = digest_of(fields, self._key)
            parts = [part for pair in fields.items() for part in pair]
            command += [str(len(parts)), *parts]
        return f"{seq}:{previous}", command

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: It does not.
        """
        await self._pipe.call("PING")

    async def close(self) -> None:
        """Close the connection."""
        self._pipe.close()


def _forgotten(err: UnavailableError) -> bool:
    cause = err.__cause__
    return isinstance(cause, hiredis.ReplyError) and str(cause).startswith("NOSCRIPT")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a chain.

    Attributes:
        place: Stream id of the record, or ``head``.
        problem: What is wrong.
    """

    place: str
    problem: str


def faults(
    records: Iterable[tuple[str, Mapping[str, str]]], head: str, key: bytes = b"", start: str = ""
) -> list[Fault]:
    """Return all that is wrong with a chain; nothing if it is whole.

    Args:
        records: (stream id, fields) in the order of the stream.
        head: What the head's key holds; empty if it does not exist.
        key: The writers' secret.
        start: Head as it stood before the first of ``records``; empty for the whole chain.
    """
    found = []
    number, _, previous = start.partition(":")
    seq, previous = int(number or 0), previous or GENESIS
    for place, fields in records:
        if not fields.get(SEQ, "").isdecimal() or HASH not in fields:
            found.append(Fault(place, "is no record of the chain"))
            continue
        own = int(fields[SEQ])
        if own != seq + 1:
            found.append(Fault(place, f"is number {own} where {seq + 1} belongs"))
        elif fields.get(PREV) != previous:
            found.append(Fault(place, f"does not follow the record before it (number {own})"))
        if not hmac.compare_digest(digest_of(fields, key), fields[HASH]):
            found.append(Fault(place, f"was edited: its hash does not fit it (number {own})"))
        seq, previous = own, fields[HASH]
    expected = f"{seq}:{previous}" if seq else ""
    if head != expected:
        found.append(
            Fault(
                "head",
                f"names {head[:24] or 'nothing'}, the last record is {expected[:24] or 'none'}",
            )
        )
    return found
