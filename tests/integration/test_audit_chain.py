"""The audit chain in a real Redis: several writers, restarts, and the command that checks it."""

import asyncio
from pathlib import Path

import pytest
import redis
import redis.asyncio as aioredis
from bem_fleet.cli.fleetctl import main
from fleet.audit_chain import ChainWriter
from fleet.errors import UnavailableError
from fleet.testing import RedisServer

STREAM = "bem:audit"


async def test_several_writers_and_restarts_make_one_chain(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records of four writers at once, and of a writer after a crash, verify as one chain."""
    writers = [ChainWriter(redis_server.url, STREAM) for _ in range(4)]
    await asyncio.gather(*(writer.append({"n": str(n)}) for n in range(25) for writer in writers))
    redis_server.kill()
    with pytest.raises(UnavailableError):
        await writers[0].append({"n": "lost"})
    redis_server.start()
    await writers[0].append({"n": "after"})
    late = ChainWriter(redis_server.url, STREAM)
    await late.append({"n": "late"})
    for writer in (*writers, late):
        await writer.close()

    assert main(["audit", "verify", "--redis-url", redis_server.url]) == 0
    assert "102 records, hash chain valid" in capsys.readouterr().out


async def test_a_redis_that_forgot_the_script_gets_it_again(redis_server: RedisServer) -> None:
    """Scripts are lost with a restart or a flush; no record is."""
    writer = ChainWriter(redis_server.url, STREAM)
    async with aioredis.Redis.from_url(redis_server.url) as client:
        for n in range(4):
            await writer.append({"n": str(n)})
            await client.script_flush()
        stored: int = await client.xlen(STREAM)
    await writer.close()

    assert stored == 4


async def test_verify_finds_edited_dropped_and_moved_records(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each damage ends with status 1 and the place; no Redis ends with status 2."""
    secret = tmp_path / "key"
    secret.write_text("s3cret\n")
    writer = ChainWriter(redis_server.url, STREAM, b"s3cret")
    for n in range(8):
        await writer.append({"n": str(n)})
    await writer.close()
    command = ["audit", "verify", "--redis-url", redis_server.url, "--key-file", str(secret)]
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        assert main(command) == 0
        rows = client.xrange(STREAM)
        client.xdel(STREAM, rows[3][0])
        assert main(command) == 1
        head = client.get(f"{STREAM}:head")
        client.delete(STREAM)
        for place, (name, fields) in enumerate(rows):
            client.xadd(STREAM, {**fields, "n": "x"} if place == 2 else fields, id=name)
        assert main(command) == 1
        client.delete(STREAM)
        for (name, _), (_, fields) in zip(rows, [rows[1], rows[0], *rows[2:]], strict=True):
            client.xadd(STREAM, fields, id=name)
        assert main(command) == 1
        assert client.get(f"{STREAM}:head") == head
    printed = capsys.readouterr().out
    redis_server.kill()

    assert "sequence number 5, expected 4" in printed
    assert "was edited" in printed
    assert main(command) == 2
