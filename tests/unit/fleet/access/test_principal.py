"""Roles and principals."""

from fleet.access.principal import ANONYMOUS, SOCKET_PEER, Role, principal


def test_roles_are_ordered() -> None:
    """A larger role includes the smaller ones."""
    assert Role.OPEN < Role.USER < Role.SERVICE < Role.OPERATOR
    assert Role.OPERATOR.label == "operator"


def test_no_caller_is_privileged_by_default() -> None:
    """Outside of a request, and without a key, nobody has a role."""
    assert principal.get() is ANONYMOUS
    assert ANONYMOUS.role is Role.OPEN
    assert not SOCKET_PEER.has_key
