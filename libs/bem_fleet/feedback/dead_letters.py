"""Dead letters: entries that can have no effect, with the reason, until a person decides.

Their number has a limit and none is ever trimmed. When they are full, an entry that should become
one stays in the queue, which itself refuses new feedback when it is full.
"""

from dataclasses import dataclass
from typing import Any

from fleet.errors import NotFoundError
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback.event_store import FENCE
from bem_fleet.feedback.record import user_of
from bem_fleet.feedback.redis_keys import GROUP, STREAM

TIMEOUT_S = 5.0
MAX_BYTES = 512 * 1024
"""Largest body that is kept, in bytes."""

_BURY = f"""
{FENCE}
local base, id, user, limit, kept = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if redis.call('XLEN', base .. ':dead') >= limit then return 'full' end
local dead = redis.call('XADD', base .. ':dead', '*', unpack(ARGV, 6))
if user ~= '' then
  redis.call('SREM', base .. ':entries:' .. user, 'q:' .. id)
  redis.call('SADD', base .. ':entries:' .. user, 'd:' .. dead)
  local body = kept == '1' and redis.call('HGET', base .. ':bodies', id) or ''
  redis.call('HSET', base .. ':dead-bodies', dead, user .. ' ' .. body)
end
return finish('dead')
"""
_TAKE = """
local base, dead, requeued = KEYS[1], ARGV[1], ARGV[2] == '1'
local kept = redis.call('HGET', base .. ':dead-bodies', dead)
if requeued and not (kept and string.match(kept, '^%S+ .')) then return 0 end
if redis.call('XDEL', base .. ':dead', dead) == 0 then return 0 end
redis.call('HINCRBY', base .. ':totals', requeued and 'requeued' or 'discarded', 1)
if not kept then return 1 end
local user, body = string.match(kept, '^(%S+) (.*)$')
redis.call('HDEL', base .. ':dead-bodies', dead)
redis.call('SREM', base .. ':entries:' .. user, 'd:' .. dead)
if not requeued then return 1 end
local id = redis.call('XADD', base, '*', 'v', 1)
redis.call('HSET', base .. ':bodies', id, body)
redis.call('SADD', base .. ':entries:' .. user, 'q:' .. id)
return id
"""


@dataclass(frozen=True)
class DeadLetter:
    """An entry without an effect.

    Attributes:
        identifier: Id among the dead letters.
        entry: Id that the entry had in the queue.
        reason: Why it can have no effect, without anything of its body.
        deliveries: Number of its deliveries.
        size: Length of its body in bytes.
        user: Pseudonym of its user; empty if it names none.
        body: Body of the entry; empty if it was not kept, because it names no user who could have
            it forgotten, or exceeds ``MAX_BYTES``.
    """

    identifier: str
    entry: str
    reason: str
    deliveries: int
    size: int
    user: str
    body: bytes


class DeadLetters:
    """Dead letters in Redis.

    Args:
        redis_url: URL of Redis.
        limit: Most dead letters.
        stream: Key of the queue's stream.
    """

    def __init__(self, redis_url: str, limit: int, stream: str = STREAM) -> None:
        self._limit, self._stream = limit, stream
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"dead letters of {stream}")

    async def bury(self, identifier: str, body: bytes, reason: str, deliveries: int) -> str:
        """Move an entry from the queue to the dead letters.

        Args:
            identifier: Id of the entry.
            body: Body of the entry; empty for none.
            reason: Why it can have no effect; must repeat nothing of the body.
            deliveries: Number of its deliveries.

        Returns:
            ``dead``; ``full`` if the entry stays in the queue; or ``superseded`` if it has had an
            effect or was forgotten.

        Raises:
            UnavailableError: Redis did not answer; the entry is in one of both.
        """
        user, kept = user_of(body), int(len(body) <= MAX_BYTES)
        values = ("of", identifier, "reason", reason, "deliveries", deliveries, "size", len(body))
        outcome = await self._run(_BURY, GROUP, identifier, user, self._limit, kept, *values)
        return str(outcome.decode())

    async def page(self, after: str = "", count: int = 100) -> list[DeadLetter]:
        """Return dead letters in order, oldest first.

        Args:
            after: Id of the last one of the page before; empty begins.
            count: Most dead letters.

        Raises:
            UnavailableError: Redis does not answer.
        """
        begin = f"({after}" if after else "-"
        found = await self._pipe.call("XRANGE", f"{self._stream}:dead", begin, "+", "COUNT", count)
        if not found:
            return []
        ids = [identifier for identifier, _ in found]
        bodies = await self._pipe.call("HMGET", f"{self._stream}:dead-bodies", *ids)
        return [
            _letter(identifier, flat, kept)
            for (identifier, flat), kept in zip(found, bodies, strict=True)
        ]

    async def requeue(self, identifier: str) -> str:
        """Put a dead letter back into the queue, once, and return its new id there.

        Raises:
            NotFoundError: There is no such dead letter, or its body was not kept.
            UnavailableError: Redis did not answer.
        """
        taken = await self._run(_TAKE, identifier, 1)
        if not taken:
            raise NotFoundError(
                f"dead letter {identifier}: does not exist, or its body was not kept; list them, "
                "and discard what has no body"
            )
        return str(taken.decode())

    async def discard(self, identifier: str) -> None:
        """Remove a dead letter for good; the totals count it.

        Raises:
            NotFoundError: There is no such dead letter.
            UnavailableError: Redis did not answer.
        """
        if not await self._run(_TAKE, identifier, 0):
            raise NotFoundError(f"dead letter {identifier}: does not exist; list them")

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    async def _run(self, script: str, *arguments: str | int) -> Any:
        return await self._pipe.call("EVAL", script, 1, self._stream, *arguments)


def _letter(identifier: bytes, flat: list[bytes], kept: bytes | None) -> DeadLetter:
    values = dict(zip(flat[::2], flat[1::2], strict=True))
    user, _, body = (kept or b"").partition(b" ")
    return DeadLetter(
        identifier.decode(),
        values[b"of"].decode(),
        values[b"reason"].decode(),
        int(values[b"deliveries"]),
        int(values[b"size"]),
        user.decode(),
        body,
    )
