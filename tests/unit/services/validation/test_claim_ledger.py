"""Claim ledger in a real Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from bem.errors import InvalidScoresError
from bem_fleet.services.validation.claim_families import FamilyEntry
from bem_fleet.services.validation.claim_ledger import ClaimLedger, RecordFault
from bem_fleet.services.validation.claims import GATES_FAMILY, Claim
from fleet.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from fleet.testing import RedisServer

from tests.unit.services.validation.test_claims import LINEAGE, MEASURED

GATES = ("A.em_f1",)


@pytest.fixture
async def ledger(redis_server: RedisServer) -> AsyncIterator[ClaimLedger]:
    """An empty ledger."""
    made = ClaimLedger(redis_server.url, "claims", GATES)
    yield made
    await made.close()


def claim(key: str = "k1", digest: str = "d1", p: float = 0.04, **changed: str) -> Claim:
    """Return a claim."""
    return Claim(key, digest, LINEAGE, replace(MEASURED, p=p), **changed)  # type: ignore[arg-type]


async def test_a_content_is_recorded_once_whatever_its_key(ledger: ClaimLedger) -> None:
    """Equal content returns the record; a key names one content."""
    first = await ledger.append(claim(), 0)
    again = await ledger.append(claim(), 1)
    copy = await ledger.append(claim("k2"), 1)
    copy_found = await ledger.find("k3", "d1")
    missing = await ledger.find("k2", "d2")
    with pytest.raises(FailedPreconditionError, match="use a new key"):
        await ledger.append(claim(digest="d2"), 1)
    with pytest.raises(FailedPreconditionError, match="'k1'"):
        await ledger.find("k1", "d2")

    assert first is not None
    assert first == again == copy == copy_found
    assert missing is None
    assert await ledger.entries() == (FamilyEntry(first[0], "", first[0], 0.04),)


async def test_an_append_while_it_is_looked_up_is_no_other_content(
    ledger: ClaimLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same claim at the same time is new or known, never refused."""
    call, appended = ledger.call, list[Any]()

    async def call_then_append(command: str, *arguments: Any) -> Any:
        answer = await call(command, *arguments)
        if command == "hget" and not appended:
            appended.append(await ledger.append(claim(), 0))
        return answer

    monkeypatch.setattr(ledger, "call", call_then_append)
    found = await ledger.find("k1", "d1")

    assert found in (None, appended[0])


async def test_a_verdict_of_an_older_ledger_is_not_recorded(ledger: ClaimLedger) -> None:
    """The caller evaluates again, because the adjusted p depends on the family."""
    await ledger.append(claim("k1"), 0)
    stale = await ledger.append(claim("k2", "d2"), 0)
    fresh = await ledger.append(claim("k2", "d2"), 1)

    assert stale is None
    assert fresh is not None


async def test_pages_follow_each_other(ledger: ClaimLedger) -> None:
    """Claims come oldest first, from after an id; anything else is no id."""
    for index in range(5):
        await ledger.append(claim(f"k{index}", f"d{index}", p=index / 10), index)
    first, _ = await ledger.page("", 2)
    rest, _ = await ledger.page(first[-1][0], 10)
    with pytest.raises(InvalidArgumentError, match="not a record id"):
        await ledger.page("x", 1)

    assert [one.key for _, one in [*first, *rest]] == [f"k{index}" for index in range(5)]
    assert [entry.p for entry in await ledger.entries()] == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("figure", [float("inf"), float("nan"), 1e308, -1e16])
async def test_an_impossible_figure_is_not_recorded(ledger: ClaimLedger, figure: float) -> None:
    """Nothing enters the ledger that cannot be read from it."""
    broken = replace(claim(), measured=replace(MEASURED, figure=figure))
    with pytest.raises(InvalidScoresError, match=r"measured\.figure"):
        await ledger.append(broken, 0)

    assert await ledger.entries() == ()


_GOOD = (
    '{"key": "k", "digest": "d", "lineage": {"mission_digest": "m", "baseline_digest": "b", '
    '"data_digest": "d", "command": "c"}, "gate_id": "A.em_f1", "measured": {"metric": "f1", '
    '"figure": FIGURE, "low": null, "high": null, "p": 0.5, "items": 9, "seeds": 1, '
    '"method": "BCa", "coverage": "nominal"}}'
)


@pytest.mark.parametrize(
    ("fields", "problem", "member"),
    [
        ({"claim": _GOOD.replace("FIGURE", "1e308")}, "measured.figure is 1e+308", "A.em_f1"),
        ({"claim": _GOOD.replace("FIGURE", "null")}, "measured.figure: Input", "A.em_f1"),
        ({"claim": "{not json"}, "claim: Invalid JSON", ""),
        ({"claim": "[]"}, "claim: Input should be", ""),
        ({"note": "x"}, "has the fields ['note']", ""),
    ],
)
async def test_a_bad_record_is_named_and_harms_no_other(
    ledger: ClaimLedger,
    redis_server: RedisServer,
    fields: dict[str, str],
    problem: str,
    member: str,
) -> None:
    """Its neighbours are listed; it counts as a member, or as an attempt, without evidence."""
    await ledger.append(claim("k1", "d1"), 0)
    client: Any = redis.Redis.from_url(redis_server.url, decode_responses=True)
    async with client as raw:
        identifier = await raw.xadd("claims", fields)
    last = await ledger.append(claim("k2", "d2"), 2)
    claims, faults = await ledger.page("", 10)
    bad = (await ledger.entries())[1]

    assert last is not None
    assert [one.key for _, one in claims] == ["k1", "k2"]
    assert [one.id for one in faults] == [identifier]
    assert problem in faults[0].problem
    assert isinstance(faults[0], RecordFault)
    assert (bad.family, bad.member, bad.p) == (
        (GATES_FAMILY, member, 1.0) if member else ("", identifier, 1.0)
    )
    with pytest.raises(FailedPreconditionError, match=identifier):
        await ledger.read(identifier)


async def test_a_restored_ledger_is_read_anew(
    ledger: ClaimLedger, redis_server: RedisServer
) -> None:
    """What a running service remembers of records that are gone does not count."""
    await ledger.append(claim("k1", "d1"), 0)
    await ledger.append(claim("k2", "d2"), 1)
    await ledger.entries()
    async with redis.Redis.from_url(redis_server.url) as raw:
        await raw.flushall()
    kept = await ledger.append(claim("k3", "d3"), 0)

    assert kept is not None
    assert [entry.id for entry in await ledger.entries()] == [kept[0]]


async def test_redis_away_is_unavailable(tmp_path: Path) -> None:
    """The caller is told, and may ask again with the same key."""
    away = ClaimLedger(f"unix://{tmp_path}/absent.sock", "claims", GATES)
    with pytest.raises(UnavailableError, match="claims"):
        await away.ping()
