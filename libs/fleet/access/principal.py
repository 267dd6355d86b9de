"""Principal: who makes a call, with role, tenant and limits."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from bemfleet.access.v1 import access_pb2


class Role(IntEnum):
    """Role of a caller; a role includes all smaller ones."""

    OPEN = access_pb2.ROLE_OPEN
    USER = access_pb2.ROLE_USER
    SERVICE = access_pb2.ROLE_SERVICE
    OPERATOR = access_pb2.ROLE_OPERATOR

    @property
    def label(self) -> str:
        """Name in key files, error messages and tables, such as ``operator``."""
        return self.name.lower()


@dataclass(frozen=True)
class Limits:
    """Limits of one key; None is no limit.

    Attributes:
        requests_per_minute: Requests per minute; as many may come at once after a quiet minute.
        tokens_per_minute: Prompt and output tokens per minute.
        concurrent: Requests in flight at one time.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True)
class Principal:
    """Caller of a request.

    Attributes:
        name: Name of its key; ``anonymous`` without one.
        role: Largest role that it has.
        tenant: Tenant that its key is bound to; empty for none.
        limits: Limits of its key.
        has_key: Whether it presented a valid key.
    """

    name: str
    role: Role
    tenant: str = ""
    limits: Limits = Limits()
    has_key: bool = False


ANONYMOUS = Principal("anonymous", Role.OPEN)
"""Caller without a key where users need one."""

SOCKET_PEER = Principal("socket", Role.OPERATOR)
"""Caller on a unix socket without a keys file: the socket's file mode admits one account only."""

principal: ContextVar[Principal] = ContextVar("principal", default=ANONYMOUS)
"""Caller of the request being served."""
