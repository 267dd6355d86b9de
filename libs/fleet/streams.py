"""Redis streams: what is appended and acknowledged here outlives any process."""

from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from fleet.errors import UnavailableError

FEEDBACK = "bem:feedback"
AUDIT = "bem:audit"

# Redis must answer within this, or the caller is told that it cannot be reached.
TIMEOUT_S = 1.0
# How long an idempotency key is remembered.
KEPT_S = 24 * 3600

_ONCE = """
local known = redis.call('GET', KEYS[2])
if known then return known end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('SET', KEYS[2], id, 'EX', ARGV[1])
return id
"""


class StreamWriter:
    """Appends records to one Redis stream.

    Redis runs with ``appendfsync always``, so a record whose id was returned is on disk.

    Args:
        redis_url: Such as ``redis://127.0.0.1:6379/0``.
        stream: The stream's key.
        maxlen: Keep about this many newest records; None keeps all.
    """

    def __init__(self, redis_url: str, stream: str, maxlen: int | None = None) -> None:
        self.stream = stream
        self._maxlen = maxlen
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )

    async def append(self, fields: Mapping[str, str]) -> str:
        """Append one record and return its id, such as ``1732430000000-0``.

        Raises:
            UnavailableError: Redis did not acknowledge it in time; it may or may not be there.
        """
        record: dict[Any, Any] = dict(fields)
        try:
            identifier = await self._redis.xadd(
                self.stream, record, maxlen=self._maxlen, approximate=True
            )
        except (TimeoutError, RedisError, OSError) as err:
            raise UnavailableError(f"stream {self.stream} cannot be written: {err}") from err
        return identifier.decode() if isinstance(identifier, bytes) else identifier

    async def append_once(self, fields: Mapping[str, str], key: str | None) -> str:
        """Append one record unless ``key`` was used in the last day; returns its first id.

        The look-up and the append are one script, so a retry can never store it twice.

        Raises:
            UnavailableError: As in ``append``.
        """
        if key is None:
            return await self.append(fields)
        flat = [part for pair in fields.items() for part in pair]
        try:
            identifier: Any = await self._redis.eval(
                _ONCE, 2, self.stream, f"{self.stream}:once:{key}", str(KEPT_S), *flat
            )
        except (RedisError, OSError, TimeoutError) as err:
            raise UnavailableError(f"stream {self.stream} cannot be written: {err}") from err
        return identifier.decode() if isinstance(identifier, bytes) else identifier

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: It does not.
        """
        try:
            await self._redis.ping()
        except (TimeoutError, RedisError, OSError) as err:
            raise UnavailableError(f"Redis cannot be reached: {err}") from err

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
