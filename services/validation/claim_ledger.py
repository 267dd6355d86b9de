"""Claim ledger in Redis: append-only, on disk before the response.

A stream holds the records. An index of keys and one of contents are written by the same script, so
that a kill at any point leaves all three or none. A record that cannot be read is a fault with its
id: it is listed beside the others, and counts in its family as a member without evidence.
"""

import asyncio
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from bem.errors import InvalidScoresError
from bem_fleet.services.validation.claim_families import FamilyEntry, family_entry
from bem_fleet.services.validation.claims import GATES_FAMILY, Claim, figure_problem
from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.streams import TIMEOUT_S
from prometheus_client import Counter, Gauge
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

RECORDED = Counter("bem_validation_claims_total", "Claims recorded.", ["kind"])
UNREADABLE = Gauge("bem_validation_unreadable_claims", "Records of the ledger that are no claims.")

_ID = re.compile(r"\d{1,20}-\d{1,20}")
_CLAIM = TypeAdapter(Claim)
_PAGE = 1000
# Of the ARGV: key, content digest, number of records that the verdict has seen, claim. False if the
# ledger has grown since the verdict was made: the caller evaluates it again. This is a
# compare-and-set on the length of the stream, which only grows.
_APPEND = """
local known = redis.call('HGET', KEYS[3], ARGV[2])
local named = redis.call('HGET', KEYS[2], ARGV[1])
if named and named ~= known then return {named, 2} end
if known then return {known, 1} end
if redis.call('XLEN', KEYS[1]) ~= tonumber(ARGV[3]) then return false end
local id = redis.call('XADD', KEYS[1], '*', 'claim', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], id)
redis.call('HSET', KEYS[3], ARGV[2], id)
return {id, 0}
"""
_NEW, _KNOWN, _OTHER_CONTENT = range(3)


@dataclass(frozen=True)
class RecordFault:
    """A record of the ledger that is no claim.

    Attributes:
        id: Record id.
        problem: What is wrong with it.
        gate_id: Gate that it names, if that much can be read; empty otherwise.
    """

    id: str
    problem: str
    gate_id: str = ""


class ClaimLedger:
    """The append-only record of claims.

    Args:
        redis_url: URL of a Redis that runs with ``appendfsync always``.
        key: Key of the stream, and prefix of the indices.
        gates: Ids of the catalogue's gates.
    """

    def __init__(self, redis_url: str, key: str, gates: Collection[str]) -> None:
        self._redis: Any = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
        )
        self._stream, self._keys, self._contents = key, f"{key}:keys", f"{key}:contents"
        self._families = f"{key}:families"
        self._gates = frozenset(gates)
        self._entries: list[FamilyEntry] = []
        self._unreadable = 0
        self._reading = asyncio.Lock()

    async def find(self, key: str, digest: str) -> tuple[str, Claim] | None:
        """Return id and record of a content; None if the content is new.

        Raises:
            FailedPreconditionError: The key names another content.
            UnavailableError: Redis does not respond.
        """
        # An append sets both at once. Read in the other order, one between the two reads would show
        # the key without its content, which is how another content looks.
        named = await self.call("hget", self._keys, key)
        known = await self.call("hget", self._contents, digest)
        if named is not None and named != known:
            raise _other_content(key, named)
        return None if known is None else (known, await self.read(known))

    async def append(self, claim: Claim, seen: int) -> tuple[str, Claim] | None:
        """Append a claim, or return the recorded one with the same content.

        Args:
            claim: Claim to append.
            seen: Number of records that the claim was evaluated with.

        Returns:
            Id and record; None if the ledger has other records now.

        Raises:
            InvalidScoresError: A figure of the claim is out of range.
            FailedPreconditionError: The key names another content.
            UnavailableError: Redis did not acknowledge the append; a retry of the same content
                tells whether it happened.
        """
        if problem := figure_problem(claim):
            raise InvalidScoresError(f"scores: {problem}; change the scale of the scores")
        keys = (self._stream, self._keys, self._contents)
        arguments = (claim.key, claim.digest, seen, _CLAIM.dump_json(claim).decode())
        response = await self.call("eval", _APPEND, len(keys), *keys, *arguments)
        if response is None:
            return None
        identifier, outcome = response
        if outcome == _OTHER_CONTENT:
            raise _other_content(claim.key, identifier)
        if outcome == _KNOWN:
            return identifier, await self.read(identifier)
        RECORDED.labels("gate" if claim.gate_id else "comparison").inc()
        return identifier, claim

    async def entries(self) -> Sequence[FamilyEntry]:
        """Return the place of every record in its family, oldest first.

        Only records that were appended since the last call are read.

        Raises:
            UnavailableError: Redis does not respond.
        """
        async with self._reading:
            await self._read_new_entries()
            if await self.call("xlen", self._stream) < len(self._entries):
                # The stream was restored or removed: what was read before is not in it.
                self._entries, self._unreadable = [], 0
                await self._read_new_entries()
            UNREADABLE.set(self._unreadable)
            return tuple(self._entries)

    async def page(
        self, after: str, limit: int
    ) -> tuple[Sequence[tuple[str, Claim]], Sequence[RecordFault]]:
        """Return up to ``limit`` records after an id, oldest first: claims and faults.

        Raises:
            InvalidArgumentError: ``after`` is not a record id.
            UnavailableError: Redis does not respond.
        """
        if after and not _ID.fullmatch(after):
            raise InvalidArgumentError(
                "after", f"{after[:40]!r} is not a record id; use the id of a listed claim"
            )
        start = f"({after}" if after else "-"
        claims, faults = [], []
        for identifier, fields in await self.call("xrange", self._stream, start, "+", count=limit):
            record = parse_record(identifier, fields)
            if isinstance(record, RecordFault):
                faults.append(record)
            else:
                claims.append((identifier, record))
        return claims, faults

    async def read(self, identifier: str) -> Claim:
        """Return the claim of a record.

        Raises:
            FailedPreconditionError: The record is missing or no claim.
            UnavailableError: Redis does not respond.
        """
        found = await self.call("xrange", self._stream, identifier, identifier)
        record = (
            parse_record(*found[0]) if found else RecordFault(identifier, "is not in the stream")
        )
        if isinstance(record, RecordFault):
            raise FailedPreconditionError(
                f"claim record {identifier}: {record.problem}; see `fleetctl claims verify`"
            )
        return record

    async def indices(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the record id of every key, and of every content.

        Raises:
            UnavailableError: Redis does not respond.
        """
        return (
            await self.call("hgetall", self._keys),
            await self.call("hgetall", self._contents),
        )

    async def store_family(self, name: str, declaration: str) -> str:
        """Store a declaration unless the name has one, and return the stored one.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self.call("hsetnx", self._families, name, declaration)
        return str(await self.call("hget", self._families, name))

    async def stored_family(self, name: str) -> str | None:
        """Return the declaration of a family; None if there is none.

        Raises:
            UnavailableError: Redis does not respond.
        """
        stored: str | None = await self.call("hget", self._families, name)
        return stored

    async def ping(self) -> None:
        """Return when Redis responds.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self.call("ping")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Run one command.

        Raises:
            UnavailableError: Redis does not respond.
        """
        try:
            return await getattr(self._redis, command)(*arguments, **options)
        except (RedisError, OSError, TimeoutError) as err:
            raise UnavailableError(
                f"claims {self._stream}: Redis cannot be reached: {err}"
            ) from err

    async def _read_new_entries(self) -> None:
        while True:
            start = f"({self._entries[-1].id}" if self._entries else "-"
            page = await self.call("xrange", self._stream, start, "+", count=_PAGE)
            for identifier, fields in page:
                record = parse_record(identifier, fields)
                self._unreadable += isinstance(record, RecordFault)
                self._entries.append(_entry(identifier, record, self._gates))
            if len(page) < _PAGE:
                return


def parse_record(identifier: str, fields: dict[str, str]) -> Claim | RecordFault:
    """Return the claim of a record, or what is wrong with the record."""
    try:
        claim = _CLAIM.validate_json(fields["claim"])
    except KeyError:
        return RecordFault(identifier, f"has the fields {sorted(fields)}, and no field claim")
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "claim"
        return RecordFault(identifier, f"{place}: {first['msg']}", _gate_of(fields["claim"]))
    if problem := figure_problem(claim):
        return RecordFault(identifier, problem, claim.gate_id)
    return claim


def _gate_of(text: str) -> str:
    """Return the gate that a broken record names: its attempt still counts for that gate."""
    try:
        record = json.loads(text)
    except ValueError:
        return ""
    gate = record.get("gate_id") if isinstance(record, dict) else None
    return gate if isinstance(gate, str) else ""


def _entry(identifier: str, record: Claim | RecordFault, gates: Collection[str]) -> FamilyEntry:
    if isinstance(record, Claim):
        return family_entry(identifier, record, gates)
    if record.gate_id in gates:
        return FamilyEntry(identifier, GATES_FAMILY, record.gate_id, 1.0)
    return FamilyEntry(identifier, "", identifier, 1.0)


def _other_content(key: str, identifier: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"claim {key!r} names other content, recorded as {identifier}; use a new key for a new "
        "measurement"
    )
