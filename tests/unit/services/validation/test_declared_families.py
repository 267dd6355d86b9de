"""Declared families in a real Redis."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claims import Comparison, comparison_terms
from bem_fleet.services.validation.declared_families import (
    check_member,
    declare_family,
    find_family,
)
from fleet.errors import FailedPreconditionError
from fleet.testing import RedisServer

from tests.unit.services.validation.test_claims import LINEAGE

MEMBERS = {"quality": comparison_terms("f1", "difference", 0.0)}


@pytest.fixture
async def ledger(redis_server: RedisServer) -> AsyncIterator[ClaimLedger]:
    """An empty ledger."""
    made = ClaimLedger(redis_server.url, "claims", ())
    yield made
    await made.close()


def request(member: str = "quality", null: float = 0.0) -> Comparison:
    """Return a comparison within the family."""
    side = np.full((1, 4), 0.5)
    scores = {"f1": PairedScores(side, side)}
    return Comparison("k", LINEAGE, scores, "difference", null, "study", member)


async def test_declaration_never_changes(ledger: ClaimLedger) -> None:
    """The same declaration is accepted again; other members or terms are refused."""
    first = await declare_family(ledger, "study", MEMBERS)
    again = await declare_family(ledger, "study", MEMBERS)
    for other in (
        {**MEMBERS, "more": comparison_terms("f1", "ratio", 1.0)},
        {"quality": comparison_terms("f1", "difference", 0.1)},
    ):
        with pytest.raises(FailedPreconditionError, match="never changes"):
            await declare_family(ledger, "study", other)

    assert first == again == await find_family(ledger, "study")


async def test_request_is_what_was_declared(ledger: ClaimLedger) -> None:
    """Another member or other terms are refused by name."""
    family = await declare_family(ledger, "study", MEMBERS)
    check_member(family, request())
    with pytest.raises(FailedPreconditionError, match="no member 'speed'"):
        check_member(family, request("speed"))
    with pytest.raises(FailedPreconditionError, match=r"declared with null 0\.0"):
        check_member(family, request(null=0.01))


async def test_missing_or_broken_declaration_is_named(ledger: ClaimLedger) -> None:
    """A family is declared before its data, and a broken declaration is no family."""
    await ledger.store_family("broken", '{"members": 3}')
    with pytest.raises(FailedPreconditionError, match="not declared"):
        await find_family(ledger, "study")
    with pytest.raises(FailedPreconditionError, match=r"'broken'.* cannot be read"):
        await find_family(ledger, "broken")
