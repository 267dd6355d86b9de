"""Claim ledger in Redis: append-only, on disk before the response.

A stream holds the records; an index of claim keys and one of p-values are written by the same
script, so that a kill at any point leaves all three or none.
"""

import re
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from bem_fleet.services.validation.claims import Claim
from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.streams import TIMEOUT_S
from prometheus_client import Counter
from pydantic import TypeAdapter
from redis.exceptions import RedisError

RECORDED = Counter("bem_validation_claims_total", "Claims recorded.", ["kind"])

_ID = re.compile(r"\d{1,20}-\d{1,20}")
_CLAIM = TypeAdapter(Claim)
# False if the family has grown since the verdict was made: the caller evaluates it again. This is a
# compare-and-set on the size of the family, which only grows.
_APPEND = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return {known, 0} end
if redis.call('ZCARD', KEYS[3]) ~= tonumber(ARGV[2]) then return false end
local id = redis.call('XADD', KEYS[1], '*', 'claim', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], id)
redis.call('ZADD', KEYS[3], ARGV[3], id)
return {id, 1}
"""


class ClaimLedger:
    """The append-only family of claims.

    Args:
        redis_url: URL of a Redis that runs with ``appendfsync always``.
        key: Key of the stream.
    """

    def __init__(self, redis_url: str, key: str) -> None:
        self._redis: Any = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
        )
        self._keys = (key, f"{key}:keys", f"{key}:p")

    async def find(self, key: str, digest: str) -> tuple[str, Claim] | None:
        """Return id and record of a claim key; None if the key is new.

        Raises:
            FailedPreconditionError: The key was used for other content.
            UnavailableError: Redis does not respond.
        """
        identifier = await self._call("hget", self._keys[1], key)
        return (
            None if identifier is None else await self._read_same_content(identifier, key, digest)
        )

    async def append(self, claim: Claim, family: int) -> tuple[str, Claim] | None:
        """Append a claim, or return the recorded one with the same key.

        Args:
            claim: Claim to append.
            family: Size of the family within which the claim was evaluated.

        Returns:
            Id and record; None if the family has another size now.

        Raises:
            FailedPreconditionError: The key was used for other content.
            UnavailableError: Redis did not acknowledge the append; a retry with the same key tells
                whether it happened.
        """
        arguments = (claim.key, family, repr(claim.p), _CLAIM.dump_json(claim).decode())
        response = await self._call("eval", _APPEND, 3, *self._keys, *arguments)
        if response is None:
            return None
        identifier, is_new = response
        if not is_new:
            return await self._read_same_content(identifier, claim.key, claim.digest)
        RECORDED.labels("gate" if claim.gate_id else "comparison").inc()
        return identifier, claim

    async def family(self) -> dict[str, float]:
        """Return the p-value of every claim by its id, oldest first."""
        members: list[tuple[str, float]] = await self._call(
            "zrange", self._keys[2], 0, -1, withscores=True
        )
        return dict(sorted(members, key=lambda member: _id_order(member[0])))

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, Claim]]:
        """Return up to ``limit`` claims after an id, oldest first.

        Raises:
            InvalidArgumentError: ``after`` is not a record id.
            UnavailableError: Redis does not respond.
        """
        if after and not _ID.fullmatch(after):
            raise InvalidArgumentError(
                "after", f"{after[:40]!r} is not a record id; use the id of a listed claim"
            )
        start = f"({after}" if after else "-"
        entries = await self._call("xrange", self._keys[0], start, "+", count=limit)
        return [(identifier, _read_claim(fields)) for identifier, fields in entries]

    async def ping(self) -> None:
        """Return when Redis responds.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self._call("ping")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _read_same_content(self, identifier: str, key: str, digest: str) -> tuple[str, Claim]:
        entries = await self._call("xrange", self._keys[0], identifier, identifier)
        claim = _read_claim(entries[0][1])
        if claim.digest != digest:
            raise FailedPreconditionError(
                f"claim {key!r} was recorded as {identifier} with other scores, request or "
                "lineage; use a new key for a new measurement"
            )
        return identifier, claim

    async def _call(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await getattr(self._redis, command)(*arguments, **options)
        except (RedisError, OSError, TimeoutError) as err:
            raise UnavailableError(
                f"claims {self._keys[0]}: Redis cannot be reached: {err}"
            ) from err


def _id_order(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence)


def _read_claim(fields: dict[str, str]) -> Claim:
    return _CLAIM.validate_json(fields["claim"])
