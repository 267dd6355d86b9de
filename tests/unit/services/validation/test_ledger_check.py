"""Check of a ledger in a real Redis."""

import redis.asyncio as redis
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.ledger_check import check_ledger
from fleet.testing import RedisServer

from tests.unit.services.validation.test_claim_ledger import claim


async def test_faults_of_records_and_indices_are_named(redis_server: RedisServer) -> None:
    """A record that is no claim, and an index entry whose record is gone."""
    ledger = ClaimLedger(redis_server.url, "claims", ())
    empty = await check_ledger(ledger)
    for index in range(3):
        await ledger.append(claim(f"k{index}", f"d{index}"), index)
    sound = await check_ledger(ledger)
    lost = (await ledger.entries())[0].id
    async with redis.Redis.from_url(redis_server.url, decode_responses=True) as raw:
        bad = await raw.xadd("claims", {"claim": "{}"})
        await raw.xdel("claims", lost)
    broken = await check_ledger(ledger)
    await ledger.close()

    assert (empty.claims, empty.faults, sound.claims, sound.faults) == (0, [], 3, [])
    assert broken.claims == 2
    assert {(one.id, one.problem.split(" ")[0]) for one in broken.faults} == {
        (bad, "key:"),
        (lost, "key"),
        (lost, "content"),
    }
