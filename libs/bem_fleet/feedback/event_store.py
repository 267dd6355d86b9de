"""Event store: the durable effect of feedback, and what a learner reads of it.

An entry's effect, its acknowledgement and its removal from the stream are one script. The script
does nothing unless the entry is in the group's pending list, so that of several deliveries one has
an effect, and none after the user was forgotten.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.errors import InvalidArgumentError
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback.limits import ProcessorLimits, Quorum
from bem_fleet.feedback.processor import FAMILY, Effect
from bem_fleet.feedback.redis_keys import GROUP, STREAM

TIMEOUT_S = 5.0
"""Longest wait for Redis, in seconds."""

PRIOR = 2
"""Both parameters of the Beta distribution from which a user's trust starts."""

DROP_EVENT = """
local function drop(base, id)
  local event = redis.call('HGET', base .. ':events', id)
  if not event then return 0 end
  local user, family = string.match(event, '^(%S+) (%S+) ')
  redis.call('HDEL', base .. ':events', id)
  redis.call('HDEL', base .. ':verdicts', id)
  redis.call('ZREM', base .. ':family:' .. family, id)
  redis.call('SREM', base .. ':entries:' .. user, 'e:' .. id)
  local users = base .. ':users:' .. family
  if redis.call('HINCRBY', users, user, -1) <= 0 then redis.call('HDEL', users, user) end
  if redis.call('EXISTS', base .. ':family:' .. family) == 0 then
    redis.call('ZREM', base .. ':families', family)
  end
  return 1
end
"""
"""Lua function that removes an event from wherever it is, and returns the number of events."""

FENCE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 'superseded' end
redis.call('XDEL', KEYS[1], '0-0')
local function finish(outcome)
  redis.call('HINCRBY', KEYS[1] .. ':totals', outcome, 1)
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[1], ARGV[2])
  redis.call('HDEL', KEYS[1] .. ':bodies', ARGV[2])
  return outcome
end
"""
"""Beginning of a script that takes an entry out of the queue: it ends unless the entry is pending.

The entry leaves the queue last, so that an error in the middle, such as a command that the user may
not use, loses nothing. The first XDEL removes nothing: after a first write Redis lets a script end
at ``maxmemory``, so that a full Redis can be emptied.
"""

_APPLY = f"""
{FENCE}
{DROP_EVENT}
local base, id, user, rating = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local family, content, digest, priority = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local content_s, contents, share = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local kept, families, idle_s = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
if rating ~= '' then redis.call('HINCRBY', base .. ':totals', 'rated ' .. rating, 1) end
if family == '' then return finish('unconsented') end
local index = base .. ':entries:' .. user
redis.call('SREM', index, 'q:' .. id)
local now = tonumber(redis.call('TIME')[1])
local known = base .. ':contents:' .. user
redis.call('ZREMRANGEBYSCORE', known, '-inf', now)
if redis.call('ZSCORE', known, digest) then return finish('duplicate') end
redis.call('ZADD', known, now + content_s, digest)
redis.call('ZREMRANGEBYRANK', known, 0, -1 - contents)
redis.call('EXPIRE', known, content_s)
local users = base .. ':users:' .. family
if tonumber(redis.call('HGET', users, user) or '0') >= share then return finish('surplus') end
redis.call('HSET', base .. ':events', id, user .. ' ' .. family .. ' ' .. content)
redis.call('ZADD', base .. ':family:' .. family, priority, id)
redis.call('HINCRBY', users, user, 1)
redis.call('SADD', index, 'e:' .. id)
redis.call('ZADD', base .. ':families', now, family)
local removed = 0
if redis.call('ZCARD', base .. ':family:' .. family) > kept then
  local last = redis.call('ZRANGE', base .. ':family:' .. family, -1, -1)[1]
  removed = removed + drop(base, last)
end
local oldest = redis.call('ZRANGE', base .. ':families', 0, 0, 'WITHSCORES')
if redis.call('ZCARD', base .. ':families') > families or tonumber(oldest[2]) < now - idle_s then
  for _, one in ipairs(redis.call('ZRANGE', base .. ':family:' .. oldest[1], 0, -1)) do
    removed = removed + drop(base, one)
  end
end
if removed > 0 then redis.call('HINCRBY', base .. ':totals', 'removed', removed) end
return finish('accepted')
"""
_READ = """
local base, family = KEYS[1], ARGV[1]
local ids = redis.call('ZRANGE', base .. ':family:' .. family, 0, -1)
local events, trust = {}, {}
for n, id in ipairs(ids) do events[n] = redis.call('HGET', base .. ':events', id) end
local users = redis.call('HGETALL', base .. ':users:' .. family)
for n = 1, #users, 2 do
  local verdicts = redis.call('HMGET', base .. ':trust:' .. users[n], 'agreed', 'disagreed')
  trust[#trust + 1] = {users[n], verdicts[1] or '0', verdicts[2] or '0'}
end
return {ids, events, trust, redis.call('GET', base .. ':forgotten') or '0'}
"""
_SETTLE = """
local base, id, verdict, trust_s = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local event = redis.call('HGET', base .. ':events', id)
if not event or redis.call('HSETNX', base .. ':verdicts', id, verdict) == 0 then return 0 end
local trust = base .. ':trust:' .. string.match(event, '^(%S+) ')
redis.call('HINCRBY', trust, verdict, 1)
redis.call('EXPIRE', trust, trust_s)
return 1
"""


@dataclass(frozen=True)
class Event:
    """Accepted feedback.

    Attributes:
        identifier: Id that its entry had in the stream.
        user: Pseudonym of the user.
        weight: Trust of the user, in (0, 1).
        content: ``kind`` and the record's texts, tags and ids.
    """

    identifier: str
    user: str
    weight: float
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Events that would change the same thing.

    Attributes:
        name: Name of the family.
        events: Events in the order of their ids.
        trust: Trust of each user, in (0, 1).
        forgotten: Number of the last forgetting, which the events reflect.
    """

    name: str
    events: tuple[Event, ...]
    trust: Mapping[str, float]
    forgotten: int

    def shortfall(self, quorum: Quorum) -> str:
        """Return what the family lacks for a change; empty if it has its quorum."""
        if len(self.events) < quorum.events:
            return f"events: {len(self.events)}; a change needs {quorum.events}"
        trusted = [user for user, trust in self.trust.items() if trust >= quorum.trust]
        sources = Counter(user.partition("-")[0] for user in trusted)
        users = sum(min(count, quorum.users_per_source) for count in sources.values())
        return "" if users >= quorum.users else f"users: {users}; a change needs {quorum.users}"


class EventStore:
    """Events, families and trust in Redis.

    Args:
        redis_url: URL of Redis.
        limits: Limits of what is kept.
        stream: Key of the stream.
    """

    def __init__(
        self, redis_url: str, limits: ProcessorLimits | None = None, stream: str = STREAM
    ) -> None:
        self.limits = limits or ProcessorLimits()
        self._stream = stream
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"feedback events {stream}")

    async def apply(self, identifier: str, effect: Effect) -> str:
        """Give an entry its effect, and remove it from the stream.

        Returns:
            ``accepted``, ``duplicate``, ``surplus`` (the user's share of the family is used),
            ``unconsented``, or ``superseded`` if the entry has had an effect or was forgotten.

        Raises:
            UnavailableError: Redis did not answer; the entry has its effect or is still pending.
        """
        one, limits = effect.record, self.limits
        event = (effect.family, effect.content, effect.digest, effect.priority)
        bounds = (limits.content_s, limits.contents, limits.user_share, limits.family_events)
        outcome = await self._run(
            *(_APPLY, GROUP, identifier, one.user, one.rating),
            *(*event, *bounds, limits.families, limits.idle_s),
        )
        return str(outcome.decode())

    async def families(self) -> list[str]:
        """Return the names of all families, that of the latest event last.

        Raises:
            UnavailableError: Redis does not answer.
        """
        names = await self._pipe.call("ZRANGE", f"{self._stream}:families", 0, -1)
        return [name.decode() for name in names]

    async def family(self, name: str) -> Family:
        """Return a family as it is at one moment; it may be empty.

        Raises:
            InvalidArgumentError: The name is malformed.
            UnavailableError: Redis does not answer.
        """
        if not FAMILY.fullmatch(name):
            raise InvalidArgumentError("family", f"{name[:80]!r} is no name of a family")
        ids, events, verdicts, forgotten = await self._run(_READ, name)
        trust = {
            user.decode(): (PRIOR + int(agreed)) / (2 * PRIOR + int(agreed) + int(disagreed))
            for user, agreed, disagreed in verdicts
        }
        parsed = sorted(
            (_event(i.decode(), text.decode(), trust) for i, text in zip(ids, events, strict=True)),
            key=lambda one: tuple(map(int, one.identifier.split("-"))),
        )
        return Family(name, tuple(parsed), trust, int(forgotten))

    async def settle(self, identifier: str, *, agreed: bool) -> bool:
        """Record whether a learner agreed with an event, which changes the user's trust.

        Returns:
            Whether it was recorded: an event has one verdict, and a forgotten one has none.

        Raises:
            UnavailableError: Redis does not answer.
        """
        verdict = "agreed" if agreed else "disagreed"
        return bool(await self._run(_SETTLE, identifier, verdict, self.limits.trust_s))

    async def totals(self) -> dict[str, int]:
        """Return the number of entries by outcome since the beginning.

        Raises:
            UnavailableError: Redis does not answer.
        """
        flat = await self._pipe.call("HGETALL", f"{self._stream}:totals")
        return {flat[n].decode(): int(flat[n + 1]) for n in range(0, len(flat), 2)}

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    async def _run(self, script: str, *arguments: str | int) -> Any:
        return await self._pipe.call("EVAL", script, 1, self._stream, *arguments)


def _event(identifier: str, text: str, trust: Mapping[str, float]) -> Event:
    user, _, rest = text.split(" ", 2)
    return Event(identifier, user, trust[user], json.loads(rest))
