"""Feedback intake: appends scrubbed feedback to the queue once, or refuses it.

Redis runs with ``appendfsync always`` and without eviction: a record whose id was returned is on
disk, and at ``maxmemory`` records are refused. Records of concurrent callers are appended by one
script, and each is answered after the one fsync that Redis makes for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.errors import (
    FleetError,
    InvalidArgumentError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from fleet.group_commit import GroupCommit
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback.limits import IntakeLimits
from bem_fleet.feedback.metrics import REFUSED
from bem_fleet.feedback.record import FeedbackRecord
from bem_fleet.feedback.redis_keys import STREAM

TIMEOUT_S = 3.0
"""Longest wait for Redis, in seconds; after it the caller is told that Redis is unavailable."""

_FULL_RETRY_S = 5.0
_GROUP_BYTES = 1 << 19
"""Most bytes of a group; 350 corrections of 200 characters."""
_ENTRY_BYTES = 512
"""What an entry costs beside its body, about: key, user, digest and protocol."""
# The first write of an entry is XADD, which Redis refuses at maxmemory: then nothing was changed.
# A script that has written may go on, so that a group may end up to _GROUP_BYTES above the limit.
_APPEND = """
local base, once_s, rate, rate_s = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local backlog = tonumber(ARGV[4])
local function append(key, user, digest, body)
  local once = key ~= '' and base .. ':once:' .. key
  if once then
    local known = redis.call('GET', once)
    if known then
      local id, same = string.match(known, '^(%S+) (%S+)$')
      return {same == digest and 'known' or 'conflict', id}
    end
  end
  local window = base .. ':rate:' .. user
  if user ~= '' and tonumber(redis.call('GET', window) or '0') >= rate then
    return {'rate', tostring(redis.call('TTL', window))}
  end
  if redis.call('XLEN', base) >= backlog then return {'full', ARGV[4]} end
  local id = redis.pcall('XADD', base, '*', 'v', 1)
  if type(id) == 'table' then return {'failed', id.err} end
  redis.call('HSET', base .. ':bodies', id, body)
  if once then redis.call('SET', once, id .. ' ' .. digest, 'EX', once_s) end
  if user ~= '' then
    redis.call('SADD', base .. ':entries:' .. user, 'q:' .. id)
    if redis.call('INCR', window) == 1 then redis.call('EXPIRE', window, rate_s) end
  end
  return {'stored', id}
end
local outcomes = {}
for at = 5, #ARGV, 4 do
  outcomes[#outcomes + 1] = append(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
return outcomes
"""
_Entry = tuple[str, str, str, bytes]
"""Idempotency key, user, digest of the content, and body."""


@dataclass(frozen=True)
class Receipt:
    """Acknowledgement of feedback.

    Attributes:
        identifier: Id of the entry, such as ``1732430000000-0``.
        repeated: Whether an earlier call with the same idempotency key stored it.
    """

    identifier: str
    repeated: bool


class FeedbackIntake:
    """Appends feedback to the queue over one connection, that of concurrent callers together.

    A failed call is never repeated here: it may have been carried out. A caller that repeats it
    with the same idempotency key within ``IntakeLimits.once_s`` stores it once.

    Args:
        redis_url: URL of Redis.
        limits: Limits at which feedback is refused.
        stream: Key of the stream.
    """

    def __init__(
        self, redis_url: str, limits: IntakeLimits | None = None, stream: str = STREAM
    ) -> None:
        self._limits = limits or IntakeLimits()
        self._stream = stream
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"stream {stream}")
        self._group: GroupCommit[_Entry, tuple[str, str]] = GroupCommit(
            self._append, _GROUP_BYTES, lambda entry: _ENTRY_BYTES + len(entry[-1])
        )

    async def submit(self, record: FeedbackRecord, once: str | None = None) -> Receipt:
        """Append a record and return its receipt once it is on disk.

        Args:
            record: Scrubbed feedback.
            once: Idempotency key as a keyed hash; None stores in any case.

        Raises:
            InvalidArgumentError: The key was used for another content.
            RateLimitedError: The user has sent as much as a window allows.
            OverloadedError: The backlog or Redis's memory is full.
            UnavailableError: Redis did not acknowledge it; it may or may not be stored.
        """
        body = record.to_json().encode()
        try:
            outcome, value = await self._group.submit(
                (once or "", record.user, record.content_digest(), body)
            )
        except UnavailableError:
            REFUSED.labels("unavailable").inc()
            raise
        return self._receipt(outcome, value)

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        await self._pipe.call("PING")

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    async def _append(self, entries: Sequence[_Entry]) -> list[tuple[str, str]]:
        """Append a group in one step; return the outcome of each entry and what belongs to it."""
        limits = self._limits
        window = (limits.once_s, limits.rate, limits.rate_s, limits.backlog)
        parts = (part for entry in entries for part in entry)
        found = await self._pipe.call("EVAL", _APPEND, 1, self._stream, *window, *parts)
        return [(outcome.decode(), value.decode()) for outcome, value in found]

    def _receipt(self, outcome: str, value: str) -> Receipt:
        if outcome in ("stored", "known"):
            return Receipt(value, outcome == "known")
        if outcome == "failed":
            outcome = "memory" if "OOM" in value else "unavailable"
        REFUSED.labels(outcome).inc()
        raise self._refusal(outcome, value)

    def _refusal(self, outcome: str, value: str) -> FleetError:
        match outcome:
            case "conflict":
                return InvalidArgumentError(
                    "idempotency_key", f"was used for other feedback, {value}; use a new one"
                )
            case "rate":
                return RateLimitedError(
                    f"feedback: a user may send {self._limits.rate} in {self._limits.rate_s} s; "
                    f"retry after {value} s",
                    float(value),
                )
            case "unavailable":
                return UnavailableError(f"stream {self._stream}: Redis failed: {value}")
            case "memory":
                reason = "Redis has reached its maxmemory and stores nothing"
            case _:
                reason = f"{value} entries wait for the processor, which is the limit"
        return OverloadedError(f"feedback: {reason}; retry later", _FULL_RETRY_S)
