"""Redis stream writer: an appended record that was acknowledged outlives any process."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fleet.errors import UnavailableError

TIMEOUT_S = 5.0
"""Longest wait for Redis, in seconds; after it the caller is told that Redis is unavailable."""


class StreamWriter:
    """Appends records to Redis streams over one connection pool.

    Redis runs with ``appendfsync always``, so a record whose id was returned is on disk. A failed
    command is never repeated here: it may have been carried out.

    Args:
        redis_url: Redis URL in redis-py's form, such as ``redis://127.0.0.1:6379/0``.
        stream: Key of the stream that ``append`` uses unless another one is named.
        maxlen: About how many newest records a stream keeps; None keeps all.
    """

    def __init__(self, redis_url: str, stream: str, maxlen: int | None = None) -> None:
        self.stream = stream
        self._maxlen = maxlen
        self._redis: Any = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))

    async def append(self, fields: Mapping[str, str | bytes], stream: str | None = None) -> str:
        """Append one record and return its id, such as ``1732430000000-0``.

        Raises:
            UnavailableError: Redis did not acknowledge it in time; it may or may not be stored.
        """
        added = self._redis.xadd(stream or self.stream, dict(fields), maxlen=self._maxlen)
        identifier: bytes = await self._within_limit(added, stream or self.stream)
        return identifier.decode()

    async def append_all(self, records: Sequence[tuple[str, Mapping[str, str | bytes]]]) -> None:
        """Append records to their streams in order, in one round trip.

        Args:
            records: Key of the stream and fields of each record, at least one.

        Raises:
            UnavailableError: Redis did not acknowledge all of them in time; some may be stored.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for stream, fields in records:
            pipeline.xadd(stream, dict(fields), maxlen=self._maxlen)
        await self._within_limit(pipeline.execute(), records[0][0])

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        await self._within_limit(self._redis.ping(), self.stream)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _within_limit(self, call: Any, stream: str) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await call
        except TimeoutError as err:
            raise UnavailableError(
                f"stream {stream}: Redis did not answer in {TIMEOUT_S:g} s"
            ) from err
        except (OSError, RedisError) as err:
            raise UnavailableError(f"stream {stream}: Redis failed: {err}") from err
