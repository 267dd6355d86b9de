"""Redis streams: what is appended and acknowledged here outlives any process."""

from collections.abc import Mapping

from fleet.redis_pipe import RedisPipe

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
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, f"stream {stream}")

    async def append(self, fields: Mapping[str, str]) -> str:
        """Append one record and return its id, such as ``1732430000000-0``.

        Raises:
            UnavailableError: Redis did not acknowledge it in time; it may or may not be there.
        """
        kept = ("MAXLEN", "~", self._maxlen) if self._maxlen else ()
        identifier: bytes = await self._pipe.call("XADD", self.stream, *kept, "*", *_flat(fields))
        return identifier.decode()

    async def append_once(self, fields: Mapping[str, str], key: str | None) -> str:
        """Append one record unless ``key`` was used in the last day; returns its first id.

        The look-up and the append are one script, so a retry can never store it twice.

        Raises:
            UnavailableError: As in ``append``.
        """
        if key is None:
            return await self.append(fields)
        keys = (self.stream, f"{self.stream}:once:{key}")
        identifier: bytes = await self._pipe.call(
            "EVAL", _ONCE, len(keys), *keys, KEPT_S, *_flat(fields)
        )
        return identifier.decode()

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            UnavailableError: It does not.
        """
        await self._pipe.call("PING")

    async def close(self) -> None:
        """Close the connection."""
        self._pipe.close()


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]
