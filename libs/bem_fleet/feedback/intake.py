"""Feedback intake: appends scrubbed feedback to the queue once, or refuses it.

Redis runs with ``appendfsync always`` and without eviction: a record whose id was returned is on
disk, and at ``maxmemory`` records are refused. Everything is one script, so that a failure leaves
all of it or nothing.
"""

from dataclasses import dataclass

from fleet.errors import (
    InvalidArgumentError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback.limits import IntakeLimits
from bem_fleet.feedback.metrics import REFUSED
from bem_fleet.feedback.record import FeedbackRecord
from bem_fleet.feedback.redis_keys import STREAM

TIMEOUT_S = 3.0
"""Longest wait for Redis, in seconds; after it the caller is told that Redis is unavailable."""

_FULL_RETRY_S = 5.0
# The first write is XADD, which Redis refuses at maxmemory: then nothing was changed.
_APPEND = """
local base, user, digest = KEYS[1], ARGV[2], ARGV[3]
local once = ARGV[1] ~= '' and base .. ':once:' .. ARGV[1]
local once_s, rate, rate_s, backlog = ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
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
if redis.call('XLEN', base) >= backlog then return {'full', ARGV[7]} end
local id = redis.call('XADD', base, '*', 'v', 1)
redis.call('HSET', base .. ':bodies', id, ARGV[8])
if once then redis.call('SET', once, id .. ' ' .. digest, 'EX', once_s) end
if user ~= '' then
  redis.call('SADD', base .. ':entries:' .. user, 'q:' .. id)
  if redis.call('INCR', window) == 1 then redis.call('EXPIRE', window, rate_s) end
end
return {'stored', id}
"""


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
    """Appends feedback to the queue over one pipelined connection.

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
        limits = self._limits
        command = ("EVAL", _APPEND, 1, self._stream, once or "", record.user)
        window = (limits.once_s, limits.rate, limits.rate_s, limits.backlog)
        try:
            outcome, value = await self._pipe.call(
                *command, record.content_digest(), *window, record.to_json()
            )
        except UnavailableError as err:
            if "OOM" not in str(err):
                REFUSED.labels("unavailable").inc()
                raise
            REFUSED.labels("memory").inc()
            raise OverloadedError(
                "feedback: Redis has reached its maxmemory and stores nothing; retry later",
                _FULL_RETRY_S,
            ) from err
        return self._receipt(outcome.decode(), value.decode())

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        await self._pipe.call("PING")

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    def _receipt(self, outcome: str, value: str) -> Receipt:
        if outcome in ("stored", "known"):
            return Receipt(value, outcome == "known")
        REFUSED.labels(outcome).inc()
        if outcome == "conflict":
            raise InvalidArgumentError(
                "idempotency_key", f"was used for other feedback, {value}; use a new one"
            )
        if outcome == "rate":
            raise RateLimitedError(
                f"feedback: a user may send {self._limits.rate} in {self._limits.rate_s} s; "
                f"retry after {value} s",
                float(value),
            )
        raise OverloadedError(
            f"feedback: {value} entries wait for the processor, which is the limit; retry later",
            _FULL_RETRY_S,
        )
