"""Declared families: members and their terms, fixed before there are data."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claims import Comparison, GateCheck
from fleet.errors import FailedPreconditionError

Terms = Mapping[str, object]
"""What a comparison or a gate asks, without scores."""


@dataclass(frozen=True)
class DeclaredFamily:
    """Declaration of a family.

    Attributes:
        name: Name of the family.
        members: Terms of each member by name.
        declared_unix_ms: Time of the declaration, in milliseconds since the epoch.
    """

    name: str
    members: Mapping[str, Terms]
    declared_unix_ms: int


async def declare_family(
    ledger: ClaimLedger, name: str, members: Mapping[str, Terms]
) -> DeclaredFamily:
    """Declare a family, or return the equal declaration that exists.

    Raises:
        FailedPreconditionError: The name has another declaration.
        UnavailableError: Redis does not respond.
    """
    document = {"members": members, "declared_unix_ms": time.time_ns() // 1_000_000}
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    stored = _parse(name, await ledger.store_family(name, text))
    if stored.members != json.loads(text)["members"]:
        raise FailedPreconditionError(
            f"family {name!r} was declared with the members {', '.join(stored.members)} and their "
            "terms; a declaration never changes, declare a family of another name"
        )
    return stored


async def find_family(ledger: ClaimLedger, name: str) -> DeclaredFamily:
    """Return a declared family.

    Raises:
        FailedPreconditionError: It was not declared.
        UnavailableError: Redis does not respond.
    """
    text = await ledger.stored_family(name)
    if text is None:
        raise FailedPreconditionError(
            f"family {name!r} is not declared; declare it and its members before their data"
        )
    return _parse(name, text)


def check_member(family: DeclaredFamily, request: Comparison | GateCheck) -> None:
    """Check that a request is what the family declared of its member.

    Raises:
        FailedPreconditionError: The family has no such member, or the terms differ.
    """
    declared = family.members.get(request.member)
    if declared is None:
        raise FailedPreconditionError(
            f"family {family.name!r} has no member {request.member!r}; its members are "
            f"{', '.join(family.members)}"
        )
    terms = json.loads(json.dumps(request.terms))
    different = [key for key in {*declared, *terms} if declared.get(key) != terms.get(key)]
    if different:
        first = min(different)
        raise FailedPreconditionError(
            f"member {request.member!r} of family {family.name!r} was declared with {first} "
            f"{declared.get(first)!r}; the request has {terms.get(first)!r}, send it as declared"
        )


def _parse(name: str, text: str) -> DeclaredFamily:
    try:
        document = json.loads(text)
        members: Mapping[str, Terms] = {key: dict(of) for key, of in document["members"].items()}
        return DeclaredFamily(name, members, int(document["declared_unix_ms"]))
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise FailedPreconditionError(
            f"family {name!r}: its stored declaration cannot be read ({err}); declare a family of "
            "another name"
        ) from err
