"""Check of a claim ledger: every record, and every entry of its indices."""

from collections.abc import Sequence
from dataclasses import dataclass

from bem_fleet.services.validation.claim_ledger import ClaimLedger, RecordFault

_PAGE = 1000


@dataclass(frozen=True)
class LedgerReport:
    """Result of the check.

    Attributes:
        claims: Number of records that are claims.
        faults: Records that are no claims, and index entries without a record.
    """

    claims: int
    faults: Sequence[RecordFault]


async def check_ledger(ledger: ClaimLedger) -> LedgerReport:
    """Read a whole ledger and return its faults; it changes nothing.

    Raises:
        UnavailableError: Redis does not respond.
    """
    ids: set[str] = set()
    faults: list[RecordFault] = []
    after, claims = "", 0
    while True:
        page, bad = await ledger.page(after, _PAGE)
        claims += len(page)
        faults += bad
        read = [*(identifier for identifier, _ in page), *(one.id for one in bad)]
        if not read:
            break
        ids.update(read)
        after = max(read, key=_order)
    keys, contents = await ledger.indices()
    for kind, index in (("key", keys), ("content", contents)):
        faults += [
            RecordFault(identifier, f"{kind} {name[:80]!r} names it, and there is no such record")
            for name, identifier in index.items()
            if identifier not in ids
        ]
    return LedgerReport(claims, faults)


def _order(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence)
