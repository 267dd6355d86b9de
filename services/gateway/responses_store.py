"""Store of responses in Redis: the conversations that ``previous_response_id`` continues.

Each API key has its own responses; no other key finds them. A response ends after a time, and the
oldest one makes room when a key has as many as it may keep, so that no client fills Redis.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from bem_fleet.services.gateway.responses_input import Turn
from fleet.access import Principal
from fleet.redis_acl import RedisAccess
from fleet.redis_pipe import RedisPipe

PREFIX = "bem:responses"
RESPONSE_ACCESS = RedisAccess(
    keys=(f"{PREFIX}:*",),
    commands=(
        *("eval", "get", "set", "expire", "time"),
        *("zadd", "zcard", "zrange", "zrem", "zremrangebyscore"),
    ),
)
"""What the gateway needs for responses."""

_TIMEOUT_S = 3.0
# The user has no DEL: a key whose time to live is 0 is removed at once.
_ADD = """
local now, ttl = tonumber(redis.call('TIME')[1]), tonumber(ARGV[3])
redis.call('SET', KEYS[1] .. ':' .. ARGV[1], ARGV[2], 'EX', ttl)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
if over > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do
    redis.call('EXPIRE', KEYS[1] .. ':' .. old, 0)
    redis.call('ZREM', KEYS[1], old)
  end
end
redis.call('EXPIRE', KEYS[1], ttl)
return 1
"""
_REMOVE = """
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('EXPIRE', KEYS[1] .. ':' .. ARGV[1], 0)
"""


@dataclass(frozen=True)
class StoredResponse:
    """A response with the conversation that led to it.

    Attributes:
        turns: Messages of the conversation without instructions, the answer last.
        response: The response object.
    """

    turns: list[Turn]
    response: dict[str, Any]


class ResponseStore:
    """Keeps responses by the key of their caller.

    Args:
        redis_url: URL of Redis.
        ttl_s: Time after which a response ends, in seconds; 0 keeps none.
        kept: Most responses of one key.
    """

    def __init__(self, redis_url: str, *, ttl_s: int, kept: int) -> None:
        self._pipe = RedisPipe(redis_url, _TIMEOUT_S, "responses")
        self._ttl_s, self._kept = ttl_s, kept

    @property
    def enabled(self) -> bool:
        """Whether responses are kept."""
        return self._ttl_s > 0

    async def add(self, owner: Principal, identifier: str, stored: StoredResponse) -> None:
        """Keep a response.

        Raises:
            UnavailableError: Redis did not acknowledge it.
        """
        text = json.dumps(asdict(stored))
        limits = (self._ttl_s, self._kept)
        await self._pipe.call("EVAL", _ADD, 1, _key(owner), identifier, text, *limits)

    async def find(self, owner: Principal, identifier: str) -> StoredResponse | None:
        """Return a response of the owner; None if there is none.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        raw = await self._pipe.call("GET", f"{_key(owner)}:{identifier}") if self.enabled else None
        if raw is None:
            return None
        found = json.loads(raw)
        return StoredResponse(found["turns"], found["response"])

    async def remove(self, owner: Principal, identifier: str) -> bool:
        """Remove a response of the owner; return whether there was one.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        if not self.enabled:
            return False
        return bool(await self._pipe.call("EVAL", _REMOVE, 1, _key(owner), identifier))

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()


def _key(owner: Principal) -> str:
    """Return the key of an owner's responses; names of keys have any letters."""
    digest = hashlib.sha256(json.dumps([owner.tenant, owner.name]).encode()).hexdigest()
    return f"{PREFIX}:{digest[:32]}"
