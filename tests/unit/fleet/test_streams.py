"""Stream writer on a real Redis."""

import pytest
import redis
from fleet.errors import UnavailableError
from fleet.streams import StreamWriter
from fleet.testing import RedisServer, free_port


async def test_one_writer_appends_to_several_streams(redis_server: RedisServer) -> None:
    """Binary fields of two streams share the connection."""
    writer = StreamWriter(redis_server.url, "bem:test", maxlen=10)
    for name in ("a", "b"):
        await writer.append({"pair": b"\x00\xff"}, stream=name)
    await writer.close()

    with redis.from_url(redis_server.url) as client:
        assert [client.xlen(name) for name in ("a", "b", "bem:test")] == [1, 1, 0]
        assert client.xrange("a")[0][1] == {b"pair": b"\x00\xff"}


async def test_absent_redis_is_unavailable_and_named() -> None:
    """The error names the stream; nothing is retried beyond the limit."""
    writer = StreamWriter(f"redis://127.0.0.1:{free_port()}/0", "bem:test")

    with pytest.raises(UnavailableError, match="bem:test"):
        await writer.ping()
    await writer.close()


async def test_a_batch_is_appended_in_order(redis_server: RedisServer) -> None:
    """Records of several streams share a round trip; a Redis that is away keeps none of them."""
    writer = StreamWriter(redis_server.url, "bem:test")
    await writer.append_all([("ab"[n % 2], {"n": str(n)}) for n in range(6)])
    await writer.close()
    away = StreamWriter(f"redis://127.0.0.1:{free_port()}/0", "bem:test")
    with pytest.raises(UnavailableError, match="stream a"):
        await away.append_all([("a", {"n": "9"})])
    await away.close()

    with redis.from_url(redis_server.url, decode_responses=True) as client:
        stored = {name: [fields["n"] for _, fields in client.xrange(name)] for name in "ab"}
    assert stored == {"a": ["0", "2", "4"], "b": ["1", "3", "5"]}
