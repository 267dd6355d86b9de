"""The audit chain in a real Redis: several writers, restarts, and the command that checks it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
import redis
import redis.asyncio as aioredis
from bem_fleet.cli.fleetctl import main
from fleet.audit_chain import ChainWriter
from fleet.errors import UnavailableError
from fleet.testing import RedisServer

from tests.support.waiting import eventually

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


async def test_a_record_that_cannot_be_encoded_fails_alone(redis_server: RedisServer) -> None:
    """Its caller gets the error at once, and the records of others are stored."""
    writer = ChainWriter(redis_server.url, STREAM)
    async with asyncio.timeout(30):
        broken, other = await asyncio.gather(
            writer.append({"text": "\ud800"}), writer.append({"n": "1"}), return_exceptions=True
        )
    async with aioredis.Redis.from_url(redis_server.url) as client:
        stored: int = await client.xlen(STREAM)
    await writer.close()

    assert isinstance(broken, UnicodeEncodeError)
    assert other is None
    assert stored == 1


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


async def test_kills_between_record_and_anchor_raise_no_alarm(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several writers, kill -9 of the witness and of Redis at any moment: the log stays valid."""
    (tmp_path / "key").write_text("s3cret\n")
    environment = {
        **os.environ,
        "BEM_SAFETY_REDIS_URL": redis_server.url,
        "BEM_SAFETY_AUDIT_KEY_FILE": str(tmp_path / "key"),
        "BEM_SAFETY_AUDIT_ANCHOR": str(tmp_path / "anchor"),
        "BEM_SAFETY_AUDIT_INTERVAL_S": "0.001",
    }
    witness = [sys.executable, "-m", "bem_fleet.services.safety.audit_witness"]
    writers = [ChainWriter(redis_server.url, STREAM, b"s3cret") for _ in range(4)]
    acknowledged = 0

    async def write(writer: ChainWriter) -> None:
        nonlocal acknowledged
        for n in range(60):
            try:
                await writer.append({"n": str(n)})
            except UnavailableError:
                await asyncio.sleep(0.01)  # Redis is down: the sidecar releases nothing
            else:
                acknowledged += 1

    for round_ in range(3):
        process = await asyncio.create_subprocess_exec(*witness, env=environment)
        await eventually((tmp_path / "anchor").exists, 10)
        writing = asyncio.gather(*(write(writer) for writer in writers))
        await asyncio.sleep(0.05 * round_)
        if round_ == 1:
            redis_server.kill()
            redis_server.start()
        await writing
        process.kill()
        await process.wait()
    for writer in writers:
        await writer.close()
    command = ["audit", "verify", "--redis-url", redis_server.url]
    command += ["--key-file", str(tmp_path / "key"), "--anchor", str(tmp_path / "anchor")]
    clean = main(command)
    printed = capsys.readouterr().out
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        stored = client.xlen(STREAM)
        client.delete(STREAM, f"{STREAM}:head")

    assert clean == 0, printed
    assert stored >= acknowledged > 400
    assert "anchored up to record" in printed
    assert main(command) == 1
    assert "it is empty" in capsys.readouterr().out
