"""Access control: API keys, roles, limits by key, and their enforcement in gRPC servers.

``principal`` holds the caller of the request being served. A gRPC server enforces the role of each
method through ``fleet.interceptors``; the gateway enforces the roles of its routes itself.
"""

from fleet.access.access import Access
from fleet.access.limits import Admission, Limiter, admission
from fleet.access.principal import ANONYMOUS, Limits, Principal, Role, principal

__all__ = [
    "ANONYMOUS",
    "Access",
    "Admission",
    "Limiter",
    "Limits",
    "Principal",
    "Role",
    "admission",
    "principal",
]
