"""Session store in Redis: a snapshot and a journal of write batches for each session.

Redis runs with ``appendfsync always``: a batch is acknowledged to the client after it is on disk.
Every change is one script that compares the session's version, so that a kill at any point leaves
the session before or after it, and two processes cannot write over each other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bem_fleet.services.memory.metrics import CONFLICTS
from bem_fleet.services.memory.session_keys import SessionKey, index_key
from fleet.errors import FleetError, UnavailableError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# The user has no DEL: a key whose time to live is 0 is removed at once.
# The last two ARGV of each script: name of the session and its time to live.
_RENEW = """
local ttl = tonumber(ARGV[#ARGV])
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ttl) end
redis.call('ZADD', KEYS[4], tonumber(redis.call('TIME')[1]) + ttl, ARGV[#ARGV - 1])
redis.call('EXPIRE', KEYS[4], ttl)
"""
_APPEND = f"""
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return -1 end
redis.call('RPUSH', KEYS[3], ARGV[2])
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
{_RENEW}
return version
"""
_REPLACE = f"""
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return -1 end
if version == '0' then
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', redis.call('TIME')[1])
  if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[3]) then return -2 end
end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[3], 0)
version = redis.call('HINCRBY', KEYS[1], 'version', 1)
{_RENEW}
return version
"""
_READ = f"""
local version = redis.call('HGET', KEYS[1], 'version')
if not version then return false end
{_RENEW}
if version == ARGV[1] then return {{version}} end
return {{version, redis.call('GET', KEYS[2]), redis.call('LRANGE', KEYS[3], 0, -1)}}
"""
_REMOVE = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return -1 end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], 0) end
redis.call('ZREM', KEYS[4], ARGV[2])
return 0
"""
_CHANGED, _TOO_MANY = -1, -2


class QuotaExceededError(FleetError):
    """A limit of sessions or of their text is reached; a retry alone does not help."""


class SessionChangedError(UnavailableError):
    """Another process has changed the session; a retry sees the change."""


@dataclass(frozen=True)
class StoredSession:
    """A session as Redis holds it.

    Attributes:
        version: Number of its changes.
        snapshot: Bytes of its snapshot; None if ``version`` is what the caller knows.
        batches: Write batches since the snapshot.
    """

    version: int
    snapshot: bytes | None = None
    batches: Sequence[bytes] = ()


class SessionStore:
    """Stores sessions.

    Args:
        redis_url: URL of a Redis that runs with ``appendfsync always``.
        ttl_s: Time after its last use at which a session ends, in seconds.
        max_sessions: Largest number of sessions of one owner.
        timeout_s: Longest wait for Redis, in seconds.
    """

    def __init__(self, redis_url: str, *, ttl_s: int, max_sessions: int, timeout_s: float) -> None:
        self._redis: Any = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self._ttl_s, self._max_sessions, self._timeout_s = ttl_s, max_sessions, timeout_s

    async def read(self, key: SessionKey, known: int = 0) -> StoredSession | None:
        """Return a session and renew its time to live; None if there is none.

        Args:
            key: Key of the session.
            known: Version that the caller has; its content is not sent again.

        Raises:
            UnavailableError: Redis does not respond.
        """
        found = await self._run(_READ, key, known, key.name, self._ttl_s)
        if found is None:
            return None
        if len(found) == 1:
            return StoredSession(int(found[0]))
        return StoredSession(int(found[0]), found[1], found[2])

    async def append(self, key: SessionKey, version: int, batch: bytes) -> int:
        """Append a batch to the journal and return the new version, once it is on disk.

        Raises:
            SessionChangedError: The session has another version, or has ended.
            UnavailableError: Redis did not acknowledge it; it may or may not be stored.
        """
        return self._changed(
            await self._run(_APPEND, key, version, batch, key.name, self._ttl_s), key
        )

    async def replace(self, key: SessionKey, version: int, snapshot: bytes) -> int:
        """Store a snapshot in place of snapshot and journal, and return the new version.

        Args:
            key: Key of the session.
            version: Version that is replaced; 0 makes a session.
            snapshot: Bytes of the session.

        Raises:
            SessionChangedError: The session has another version.
            QuotaExceededError: The owner has as many sessions as allowed.
            UnavailableError: Redis did not acknowledge it; it may or may not be stored.
        """
        arguments = (version, snapshot, self._max_sessions, key.name, self._ttl_s)
        stored = await self._run(_REPLACE, key, *arguments)
        if stored == _TOO_MANY:
            raise QuotaExceededError(
                f"session: you have {self._max_sessions} sessions, which is the limit; forget one"
            )
        return self._changed(stored, key)

    async def remove(self, key: SessionKey, version: int) -> None:
        """Remove a session.

        Raises:
            SessionChangedError: The session has another version.
            UnavailableError: Redis does not respond.
        """
        self._changed(await self._run(_REMOVE, key, version, key.name), key)

    async def sessions(self, owner: str) -> list[tuple[str, int]]:
        """Return names and ends, in seconds since the epoch, of an owner's sessions, by name.

        Raises:
            UnavailableError: Redis does not respond.
        """
        now = (await self._within_limit(self._redis.time()))[0]
        call = self._redis.zrangebyscore(index_key(owner), now, "+inf", withscores=True)
        found = await self._within_limit(call)
        return sorted((name.decode(), int(end)) for name, end in found)

    async def ping(self) -> None:
        """Return when Redis responds.

        Raises:
            UnavailableError: Redis does not respond.
        """
        await self._within_limit(self._redis.ping())

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _changed(self, version: int, key: SessionKey) -> int:
        if version == _CHANGED:
            CONFLICTS.inc()
            raise SessionChangedError(
                f"session {key.name}: was changed by another call or has ended; retry, and ingest "
                "from the acknowledged offset"
            )
        return int(version)

    async def _run(self, script: str, key: SessionKey, *arguments: Any) -> Any:
        keys = key.redis_keys
        return await self._within_limit(self._redis.eval(script, len(keys), *keys, *arguments))

    async def _within_limit(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except TimeoutError as err:
            raise UnavailableError(
                f"memory: Redis did not answer in {self._timeout_s:g} s; retry"
            ) from err
        except (OSError, RedisError) as err:
            raise UnavailableError(f"memory: Redis failed: {err}") from err
