"""Claim ledger in a real Redis."""

from dataclasses import replace
from pathlib import Path

import pytest
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claims import Claim
from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.testing import RedisServer

from tests.unit.services.validation.test_claims import LINEAGE, MEASURED


def claim(key: str = "k1", digest: str = "d1", p: float = 0.04) -> Claim:
    """Return a claim."""
    return Claim(key, digest, LINEAGE, replace(MEASURED, p=p))


async def test_a_key_is_recorded_once(redis_server: RedisServer) -> None:
    """The same content returns the record; other content under the key is refused."""
    ledger = ClaimLedger(redis_server.url, "claims")
    first = await ledger.append(claim(), 0)
    again = await ledger.append(claim(), 1)
    found = await ledger.find("k1", "d1")
    missing = await ledger.find("k2", "d1")
    with pytest.raises(FailedPreconditionError, match="use a new key"):
        await ledger.append(claim(digest="d2"), 1)
    with pytest.raises(FailedPreconditionError, match="'k1'"):
        await ledger.find("k1", "d2")
    family = await ledger.family()
    await ledger.close()

    assert first == again == found
    assert first is not None
    assert missing is None
    assert family == {first[0]: 0.04}


async def test_a_verdict_of_an_older_family_is_not_recorded(redis_server: RedisServer) -> None:
    """The caller evaluates again, because the adjusted p depends on the family."""
    ledger = ClaimLedger(redis_server.url, "claims")
    await ledger.append(claim("k1"), 0)
    stale = await ledger.append(claim("k2", "d2"), 0)
    fresh = await ledger.append(claim("k2", "d2"), 1)
    await ledger.close()

    assert stale is None
    assert fresh is not None


async def test_pages_follow_each_other(redis_server: RedisServer) -> None:
    """Claims come oldest first, from after an id; anything else is no id."""
    ledger = ClaimLedger(redis_server.url, "claims")
    for index in range(5):
        await ledger.append(claim(f"k{index}", f"d{index}", p=index / 10), index)
    first = await ledger.page("", 2)
    rest = await ledger.page(first[-1][0], 10)
    family = list((await ledger.family()).values())
    with pytest.raises(InvalidArgumentError, match="not a record id"):
        await ledger.page("x", 1)
    await ledger.close()

    assert [one.key for _, one in [*first, *rest]] == [f"k{index}" for index in range(5)]
    assert family == [0.0, 0.1, 0.2, 0.3, 0.4]


async def test_redis_away_is_unavailable(tmp_path: Path) -> None:
    """The caller is told, and may ask again with the same key."""
    ledger = ClaimLedger(f"unix://{tmp_path}/absent.sock", "claims")
    with pytest.raises(UnavailableError, match="claims"):
        await ledger.ping()
