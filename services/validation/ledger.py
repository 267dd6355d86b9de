"""The fleet's claims in Redis: appended, never changed, on disk before the answer.

A stream holds the records; beside it lie an index of claim keys and one of p-values, written by
the same script, so that a kill at any point leaves all three or none.
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
# False when the family has grown since the verdict was made: the caller judges again.
_APPEND = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return {known, 0} end
if redis.call('ZCARD', KEYS[3]) ~= tonumber(ARGV[2]) then return false end
local id = redis.call('XADD', KEYS[1], '*', 'claim', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], id)
redis.call('ZADD', KEYS[3], ARGV[3], id)
return {id, 1}
"""


class Ledger:
    """The append-only family of claims.

    Args:
        redis_url: Such as ``redis://127.0.0.1:6379/0``, running with ``appendfsync always``.
        key: Of the stream.
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
        """Return the record of a claim key, None when it is new.

        Raises:
            FailedPreconditionError: The key stands for other content.
            UnavailableError: Redis does not answer.
        """
        identifier = await self._asked("hget", self._keys[1], key)
        return None if identifier is None else await self._checked(identifier, key, digest)

    async def append(self, claim: Claim, family: int) -> tuple[str, Claim] | None:
        """Append a claim, or return the one that its key stands for.

        Args:
            claim: The claim.
            family: Size of the family that it was judged in.

        Returns:
            Id and record; None when the family has another size by now.

        Raises:
            FailedPreconditionError: The key stands for other content.
            UnavailableError: Redis did not acknowledge it; it may or may not be there, and the
                same key finds out.
        """
        arguments = (claim.key, family, repr(claim.p), _CLAIM.dump_json(claim).decode())
        answer = await self._asked("eval", _APPEND, 3, *self._keys, *arguments)
        if answer is None:
            return None
        identifier, new = answer
        if not new:
            return await self._checked(identifier, claim.key, claim.digest)
        RECORDED.labels("gate" if claim.gate_id else "comparison").inc()
        return identifier, claim

    async def family(self) -> dict[str, float]:
        """Return the p-value of every claim by its id, oldest first."""
        found: list[tuple[str, float]] = await self._asked(
            "zrange", self._keys[2], 0, -1, withscores=True
        )
        return dict(sorted(found, key=lambda pair: _order(pair[0])))

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, Claim]]:
        """Return up to ``limit`` claims after an id, oldest first.

        Raises:
            InvalidArgumentError: ``after`` is no id.
            UnavailableError: Redis does not answer.
        """
        if after and not _ID.fullmatch(after):
            raise InvalidArgumentError("after", f"{after[:40]!r} is no id of a claim")
        start = f"({after}" if after else "-"
        found = await self._asked("xrange", self._keys[0], start, "+", count=limit)
        return [(identifier, _read(fields)) for identifier, fields in found]

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: It does not.
        """
        await self._asked("ping")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _checked(self, identifier: str, key: str, digest: str) -> tuple[str, Claim]:
        found = await self._asked("xrange", self._keys[0], identifier, identifier)
        claim = _read(found[0][1])
        if claim.digest != digest:
            raise FailedPreconditionError(
                f"claim {key!r} was recorded as {identifier} with other scores, question or "
                "lineage; what is measured anew is a new claim and needs a key of its own"
            )
        return identifier, claim

    async def _asked(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await getattr(self._redis, command)(*arguments, **options)
        except (RedisError, OSError, TimeoutError) as err:
            raise UnavailableError(f"claims {self._keys[0]} cannot be reached: {err}") from err


def _order(identifier: str) -> tuple[int, int]:
    at, _, count = identifier.partition("-")
    return int(at), int(count)


def _read(fields: dict[str, str]) -> Claim:
    return _CLAIM.validate_json(fields["claim"])
