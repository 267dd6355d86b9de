"""Forgetting of a user: removes the user's feedback, and names what versions must not contain.

One script removes the user's entries from the stream with its pending list, the dead letters, the
events with their families and verdicts, and what was kept about the user. What an event taught a
version cannot be taken out of the version: a tombstone keeps the event's id, which names nobody,
and a version whose lineage has it is refused.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback.event_store import DROP_EVENT, Family
from bem_fleet.feedback.record import USER
from bem_fleet.feedback.redis_keys import GROUP, STREAM

TIMEOUT_S = 30.0
REWRITE_TIMEOUT_S = 600.0
"""Longest wait for Redis to write its file anew, in seconds."""

_POLL_S = 0.1
_NAMED = 3
# INCR is refused at maxmemory: the XDEL of nothing before it lets the script end there too.
_FORGET = f"""
{DROP_EVENT}
local base, group, user = KEYS[1], ARGV[1], ARGV[2]
local index = base .. ':entries:' .. user
local counts = {{q = 0, d = 0, e = 0}}
redis.call('XDEL', base, '0-0')
local number = redis.call('INCR', base .. ':forgotten')
for _, place in ipairs(redis.call('SMEMBERS', index)) do
  local kind, id = string.match(place, '^(%a):(.+)$')
  if kind == 'q' then
    redis.call('XACK', base, group, id)
    redis.call('HDEL', base .. ':bodies', id)
    counts.q = counts.q + redis.call('XDEL', base, id)
  elseif kind == 'd' then
    redis.call('HDEL', base .. ':dead-bodies', id)
    counts.d = counts.d + redis.call('XDEL', base .. ':dead', id)
  else
    counts.e = counts.e + drop(base, id)
    redis.call('ZADD', base .. ':tombstones', number, id)
  end
end
for _, kind in ipairs({{'entries', 'contents', 'trust', 'rate'}}) do
  redis.call('DEL', base .. ':' .. kind .. ':' .. user)
end
return {{number, counts.q, counts.d, counts.e}}
"""


@dataclass(frozen=True)
class Forgetting:
    """What was removed of a user.

    Attributes:
        number: Number of the forgetting, from 1.
        queued: Entries of the queue, those being processed included.
        dead_letters: Dead letters.
        events: Events that a learner could use.
    """

    number: int
    queued: int
    dead_letters: int
    events: int


@dataclass(frozen=True)
class Lineage:
    """Feedback that a version was made of.

    Attributes:
        events: Ids of the events.
        forgotten: Number of the last forgetting that the events reflect.
    """

    events: frozenset[str]
    forgotten: int

    @classmethod
    def of(cls, families: Iterable[Family]) -> "Lineage":
        """Return the lineage of a version that is made of families as they were read."""
        listed = list(families)
        events = frozenset(event.identifier for one in listed for event in one.events)
        return cls(events, min((one.forgotten for one in listed), default=0))


class Forgetter:
    """Forgets users, and checks lineages.

    Args:
        redis_url: URL of Redis.
        stream: Key of the queue's stream.
    """

    def __init__(self, redis_url: str, stream: str = STREAM) -> None:
        self._stream = stream
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"forgetting in {stream}")

    async def forget(self, user: str) -> Forgetting:
        """Remove everything of a user, at once; feedback that arrives later is new.

        Redis's append-only file still has the texts until it is written anew: ``rewrite_file``.

        Args:
            user: Pseudonym of the user, in the form of ``record.USER``.

        Raises:
            InvalidArgumentError: The pseudonym is malformed.
            UnavailableError: Redis did not answer; a repeated call completes it.
        """
        if not USER.fullmatch(user):
            raise InvalidArgumentError("user", "is no pseudonym; make it by the scrubber's key")
        counts = await self._pipe.call("EVAL", _FORGET, 1, self._stream, GROUP, user)
        return Forgetting(*counts)

    async def check_lineage(self, lineage: Lineage) -> Lineage:
        """Return the lineage as of now; a version is promoted only with it.

        Raises:
            FailedPreconditionError: Some of its events were forgotten since they were read.
            UnavailableError: Redis does not answer.
        """
        number = await self._pipe.call("GET", f"{self._stream}:forgotten")
        gone = sorted(await self.gone(lineage))
        if gone:
            raise FailedPreconditionError(
                f"lineage: {len(gone)} of its {len(lineage.events)} events were forgotten, such as "
                f"{', '.join(gone[:_NAMED])}; make the version anew without them"
            )
        return Lineage(lineage.events, int(number or 0))

    async def gone(self, lineage: Lineage) -> frozenset[str]:
        """Return the events of a lineage that were forgotten since they were read.

        Raises:
            UnavailableError: Redis does not answer.
        """
        newer = await self._pipe.call(
            "ZRANGEBYSCORE", f"{self._stream}:tombstones", f"({lineage.forgotten}", "+inf"
        )
        return lineage.events & {one.decode() for one in newer}

    async def rewrite_file(self) -> None:
        """Let Redis write its append-only file anew, without what was removed, and wait for it.

        Raises:
            UnavailableError: Redis failed, or is not done after ``REWRITE_TIMEOUT_S``.
        """
        await self._settled()  # a rewrite that began earlier may have the texts
        await self._pipe.call("BGREWRITEAOF")
        await self._settled()

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    async def _settled(self) -> None:
        """Return when no rewrite is running or scheduled, and the last one succeeded."""
        busy = ("aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1")
        try:
            async with asyncio.timeout(REWRITE_TIMEOUT_S):
                while True:
                    state = (await self._pipe.call("INFO", "persistence")).decode().split()
                    if not any(one in state for one in busy):
                        break
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as err:
            raise UnavailableError(
                f"append-only file: is not written anew after {REWRITE_TIMEOUT_S:g} s"
            ) from err
        if "aof_last_bgrewrite_status:ok" not in state:
            raise UnavailableError("append-only file: Redis failed to write it anew; see its log")
