"""Authentication and authorization of callers for one listener."""

import ipaddress

from prometheus_client import Counter

from fleet import wire
from fleet.access.keys import KeyRing
from fleet.access.principal import ANONYMOUS, SOCKET_PEER, Principal, Role
from fleet.errors import DeniedError, UnauthenticatedError

_SCHEME = "bearer"
# Clients that cannot leave a key out send one of these; they count as no key.
_NO_KEY = frozenset({"", "none", "empty"})
REFUSED = Counter(
    "bem_access_refused_total",
    "Calls refused by access control: missing_key, wrong_key, role, requests, tokens, concurrent.",
    ["reason"],
)


class Access:
    """Decides who calls and what a caller may call.

    Without a keys file a unix socket admits every caller, because its file mode does; on a TCP
    address nobody is an operator or a service, and users are open on loopback only.

    Args:
        keys: Keys; None for none.
        address: Address of the listener, ``host:port`` or ``unix:/path``.
    """

    def __init__(self, keys: KeyRing | None, address: str) -> None:
        self._keys = keys
        self._is_socket = address.startswith("unix:")
        self._is_local = self._is_socket or is_loopback(address)

    def identify(self, authorization: str | None) -> Principal:
        """Return the caller with the value of the header ``authorization``; None for no header.

        Raises:
            UnauthenticatedError: The header is malformed, or the key is unknown or has expired.
        """
        if self._keys is None and self._is_socket:
            return SOCKET_PEER
        key = _bearer(authorization)
        if not key:
            return self._anonymous()
        found = self._keys.find(key) if self._keys else None
        if found is None:
            REFUSED.labels("wrong_key").inc()
            raise UnauthenticatedError(
                "authorization: the API key is unknown or has expired; send a valid one as "
                "`Authorization: Bearer <key>`"
            )
        return found

    def require(self, caller: Principal, role: Role, subject: str) -> None:
        """Check that a caller has a role.

        Args:
            caller: The caller.
            role: Smallest role that may make the call.
            subject: The call, for the error, such as ``/package.Service/Method``.

        Raises:
            UnauthenticatedError: The call needs a key and the caller has none.
            DeniedError: The caller's role is too small.
        """
        if caller.role >= role:
            return
        if not caller.has_key:
            REFUSED.labels("missing_key").inc()
            raise UnauthenticatedError(
                f"authorization: missing; {subject} needs an API key with role {role.label}; send "
                "`Authorization: Bearer <key>`"
            )
        REFUSED.labels("role").inc()
        raise DeniedError(
            f"authorization: key {caller.name!r} has role {caller.role.label}; {subject} needs "
            f"role {role.label}; use such a key",
            wire.ROLE_REQUIRED,
            {"role": caller.role.label, "required": role.label},
        )

    def is_service(self, authorization: str | None) -> bool:
        """Return whether the value of an ``authorization`` header is a service's or operator's."""
        if not authorization or self._keys is None:
            return False
        found = self._keys.find(_bearer(authorization))
        return found is not None and found.role >= Role.SERVICE

    def _anonymous(self) -> Principal:
        if self._keys is None:
            return Principal("anonymous", Role.USER if self._is_local else Role.OPEN)
        given = self._keys.file.anonymous
        open_here = given.users == "always" or (
            given.users == "loopback" and self._is_local and not self._keys.has_user_keys
        )
        if not open_here:
            return ANONYMOUS
        return Principal("anonymous", Role.USER, limits=given.limits.limits())


def is_loopback(address: str) -> bool:
    """Return whether ``host:port`` can be reached from the same machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bearer(authorization: str | None) -> str:
    """Return the key in the value of an ``authorization`` header; empty for none.

    Raises:
        UnauthenticatedError: The value has another form.
    """
    if authorization is None:
        return ""
    scheme, _, key = authorization.strip().partition(" ")
    key = key.strip()
    if scheme.lower() != _SCHEME or " " in key:
        REFUSED.labels("wrong_key").inc()
        raise UnauthenticatedError(
            "authorization: has another form than `Bearer <key>`; send that form"
        )
    return "" if key.lower() in _NO_KEY else key
