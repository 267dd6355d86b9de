"""Keys of sessions: owners and names."""

import pytest
from bem_fleet.services.memory.session_keys import PREFIX, owner_of, session_key
from fleet.access import Role, principal
from fleet.access.principal import SOCKET_PEER, Principal
from fleet.errors import InvalidArgumentError

from tests.unit.services.memory.hosts import caller


def test_owner_is_the_tenant_or_the_key() -> None:
    """Keys of one tenant share sessions; without a tenant each key has its own."""
    principal.set(SOCKET_PEER)

    assert owner_of(caller("acme", "web")) == owner_of(caller("acme", "app"))
    assert owner_of(caller("", "web")) != owner_of(caller("", "app"))
    # A key may have the name of a tenant.
    assert owner_of(caller("acme", "web")) != owner_of(caller("", "acme"))


def test_metadata_of_a_network_client_is_not_believed() -> None:
    """Where the client itself is the peer, its key alone says who it is."""
    principal.set(Principal("web", Role.USER, tenant="acme", has_key=True))
    own = owner_of(caller("other", "x"))
    principal.set(Principal("anonymous", Role.USER))
    anonymous = owner_of(caller("acme", "web"))
    principal.set(SOCKET_PEER)

    assert own == owner_of(caller("acme"))
    assert anonymous == owner_of(caller("", "anonymous"))


def test_names_are_checked_and_keys_are_the_owners() -> None:
    """A name that could reach another key is refused, and all keys have the owner's prefix."""
    principal.set(SOCKET_PEER)
    for name in ("", "a:b", "*", "-a", "x" * 65, "a b", "a\n"):
        with pytest.raises(InvalidArgumentError, match=r"session: .* is not a session name"):
            session_key(name, caller("acme"))
    key = session_key("Book.1_a-b", caller("acme"))

    assert all(one.startswith(f"{PREFIX}:{key.owner}:") for one in key.redis_keys)
    assert len(set(key.redis_keys)) == 4
