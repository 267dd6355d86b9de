"""Keys of sessions: the owner of a call, and the names in Redis."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from fleet.access import Role, principal
from fleet.errors import InvalidArgumentError
from fleet.wire import CLIENT, TENANT
from grpc import aio

PREFIX = "bem:memory"
"""Prefix of the keys of all sessions."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWNER_BYTES = 16


@dataclass(frozen=True)
class SessionKey:
    """A session of an owner.

    Attributes:
        owner: Digest of the owner, hexadecimal; keys in Redis do not tell who it is.
        name: Name of the session.
    """

    owner: str
    name: str

    @property
    def redis_keys(self) -> tuple[str, str, str, str]:
        """Keys of version, snapshot and journal of the session, and of its owner's index."""
        base = f"{PREFIX}:{self.owner}:session:{self.name}"
        return f"{base}:head", f"{base}:snapshot", f"{base}:journal", index_key(self.owner)


def index_key(owner: str) -> str:
    """Return the key of the sorted set of an owner's sessions by their end."""
    return f"{PREFIX}:{owner}:sessions"


def session_key(name: str, context: aio.ServicerContext[Any, Any]) -> SessionKey:
    """Return the key of a caller's session.

    Raises:
        InvalidArgumentError: The name is malformed.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "session",
            f"{name[:80]!r} is not a session name; use 1 to 64 letters, digits, '.', '_' and '-', "
            "a letter or digit first",
        )
    return SessionKey(owner_of(context), name)


def owner_of(context: aio.ServicerContext[Any, Any]) -> str:
    """Return the digest of the caller's tenant, or of its key's name if it has no tenant.

    On a unix socket the caller is the sidecar, which states tenant and name of the client's key.
    """
    caller = principal.get()
    tenant, client = caller.tenant, caller.name
    if not caller.has_key and caller.role is Role.OPERATOR:  # the peer on the socket
        received = dict(context.invocation_metadata() or ())
        tenant, client = str(received.get(TENANT, "")), str(received.get(CLIENT, client))
    owner = f"tenant:{tenant}" if tenant else f"key:{client}"
    return hashlib.sha256(owner.encode()).hexdigest()[: 2 * _OWNER_BYTES]
