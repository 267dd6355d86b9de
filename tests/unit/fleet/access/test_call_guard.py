"""Admission of calls: roles, limits, what the gateway has counted, and operators' records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bemfleet.router.v1 import router_pb2 as pb
from fleet import wire
from fleet.access.access import Access
from fleet.access.call_guard import CallGuard
from fleet.access.keys import KeyRing
from fleet.access.limits import admission
from fleet.access.method_roles import MethodRoles
from fleet.access.operator_audit import OperatorAudit
from fleet.access.principal import Role, principal
from fleet.errors import DeniedError, RateLimitedError, UnauthenticatedError, UnavailableError

from tests.support.access_keys import AccessKeys, write_access_keys

GENERATE = "/bemfleet.router.v1.RouterService/Generate"
LOAD = "/bemfleet.mission.v1.MissionService/LoadAdapter"
HEALTH = "/grpc.health.v1.Health/Check"


class Recorded(OperatorAudit):
    """Audit that keeps its records, or refuses them."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__("redis://127.0.0.1:1/0", "audit", b"")
        self.records: list[tuple[str, str]] = []
        self._fails = fails

    async def record(self, operator: Any, method: str) -> None:
        """Keep a record."""
        if self._fails:
            raise UnavailableError("no Redis")
        self.records.append((operator.name, method))


@pytest.fixture
def keys(tmp_path: Path) -> AccessKeys:
    """A user with one request in flight and few tokens, and the standard keys."""
    limits = {"concurrent": 1, "tokens_per_minute": 10}
    return write_access_keys(tmp_path, {"name": "web", "tenant": "acme", "limits": limits})


def guard(keys: AccessKeys, audit: OperatorAudit | None = None) -> CallGuard:
    """Return the guard of a server on an address that others reach."""
    return CallGuard(Access(KeyRing(keys.file), "0.0.0.0:1"), MethodRoles(), audit)


async def test_admitted_call_has_its_principal(keys: AccessKeys) -> None:
    """The handler and what it calls read caller and tenant."""
    await guard(keys).admit(GENERATE, keys.metadata("web"))
    found = principal.get()

    assert (found.name, found.tenant) == ("web", "acme")
    assert admission.get()


async def test_only_the_peer_of_a_socket_names_the_client(keys: AccessKeys) -> None:
    """A mission divides its work by the name that its sidecar forwards; a key has its own name."""
    named = ((wire.CLIENT, "other"),)
    await guard(keys).admit(GENERATE, (*keys.metadata("web"), *named))
    by_key = principal.get().name
    mission = CallGuard(Access(None, "unix:/run/m.sock"), MethodRoles(), None)
    found = []
    for metadata in (named, ()):
        await mission.admit(GENERATE, metadata)
        found.append((principal.get().name, principal.get().role))

    assert by_key == "web"
    assert found == [("other", Role.OPERATOR), ("socket", Role.OPERATOR)]


async def test_open_methods_need_no_key(keys: AccessKeys) -> None:
    """Probes of health are admitted with any key."""
    for metadata in ((), ((wire.AUTHORIZATION, "Bearer wrong"),)):
        await guard(keys).admit(HEALTH, metadata)


async def test_small_roles_are_refused(keys: AccessKeys) -> None:
    """A wrong key is refused also where a user's would do."""
    with pytest.raises(UnauthenticatedError):
        await guard(keys).admit(GENERATE, ())
    with pytest.raises(UnauthenticatedError):
        await guard(keys).admit(GENERATE, ((wire.AUTHORIZATION, "Bearer wrong"),))
    for name in ("web", "service"):
        with pytest.raises(DeniedError, match="needs role operator"):
            await guard(keys).admit(LOAD, keys.metadata(name))


async def test_limits_hold_until_the_call_is_released(keys: AccessKeys) -> None:
    """Tokens of a response are charged to the key."""
    one = guard(keys)
    call = await one.admit(GENERATE, keys.metadata("web"))
    with pytest.raises(RateLimitedError, match="1 requests in flight"):
        await one.admit(GENERATE, keys.metadata("web"))
    call.count(pb.GenerateResponse(usage=pb.Usage(prompt_tokens=9, completion_tokens=9)))
    call.release()
    with pytest.raises(RateLimitedError, match="10 tokens a minute"):
        await one.admit(GENERATE, keys.metadata("web"))


async def test_gateway_has_counted_already(keys: AccessKeys) -> None:
    """Choices of one HTTP request are several calls; only a service's key vouches for them."""
    one = guard(keys)
    vouched = (*keys.metadata("web"), (wire.FORWARDED_BY, keys.headers("service")["authorization"]))
    own = (*keys.metadata("web"), (wire.FORWARDED_BY, keys.headers("web")["authorization"]))
    for _ in range(3):
        await one.admit(GENERATE, vouched)
    assert principal.get().name == "web"
    await one.admit(GENERATE, own)
    with pytest.raises(RateLimitedError):
        await one.admit(GENERATE, own)


async def test_operators_action_is_recorded_first(keys: AccessKeys) -> None:
    """An action that cannot be recorded is refused; other calls leave no such record."""
    audit = Recorded()
    one = guard(keys, audit)
    await one.admit(LOAD, keys.metadata("operator"))
    await one.admit(GENERATE, keys.metadata("operator"))
    with pytest.raises(UnavailableError):
        await guard(keys, Recorded(fails=True)).admit(LOAD, keys.metadata("operator"))

    assert audit.records == [("operator", LOAD)]
