"""``fleetctl claims verify`` on a real Redis."""

import asyncio

import pytest
import redis
from bem_fleet.cli import main
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from fleet.testing import RedisServer
from fleet.wire import CLAIMS_STREAM

from tests.unit.services.validation.test_claim_ledger import claim


def test_bad_record_is_named(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 for a sound ledger, 1 with the record's id, 2 without Redis."""

    async def fill() -> None:
        ledger = ClaimLedger(redis_server.url, CLAIMS_STREAM, ())
        await ledger.append(claim(), 0)
        await ledger.close()

    asyncio.run(fill())
    sound = main(["claims", "verify", "--redis-url", redis_server.url])
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as raw:
        bad = str(raw.xadd(CLAIMS_STREAM, {"claim": '{"key": 1e308}'}))
    capsys.readouterr()
    broken = main(["claims", "verify", "--redis-url", redis_server.url])
    printed = capsys.readouterr().out
    redis_server.kill()
    away = main(["claims", "verify", "--redis-url", redis_server.url])

    assert (sound, broken, away) == (0, 1, 2)
    assert f"{CLAIMS_STREAM} {bad}: key: " in printed
    assert "1 claims, 1 faults" in printed
