"""Enforcement of access control on the calls of one gRPC server."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fleet import wire
from fleet.access.access import Access
from fleet.access.limits import Admission, Limiter, admission
from fleet.access.method_roles import MethodRoles, TokenCounter
from fleet.access.operator_audit import OperatorAudit
from fleet.access.principal import SOCKET_PEER, Principal, Role, principal

Metadata = Iterable[tuple[str, str | bytes]]


class AdmittedCall:
    """One admitted call; ``count`` charges its responses and ``release`` ends it.

    Args:
        admitted: Admission of the call.
        counter: Counter of the method's responses; None if nothing is charged.
    """

    def __init__(self, admitted: Admission, counter: TokenCounter | None) -> None:
        self._admitted, self._counter = admitted, counter
        self.release: Callable[[], None] = admitted.release

    def count(self, response: object) -> None:
        """Charge the tokens of a response to the caller's key."""
        if self._counter is not None:
            self._admitted.charge(self._counter.count(response))  # type: ignore[arg-type]


class CallGuard:
    """Identifies callers, enforces roles and limits, and records operators' actions.

    Args:
        access: Keys and rules of the listener.
        roles: Roles of the server's methods.
        audit: Record of operators' actions; None where callers need no key.
    """

    def __init__(self, access: Access, roles: MethodRoles, audit: OperatorAudit | None) -> None:
        self.access, self.roles = access, roles
        self._audit = audit
        self._limiter = Limiter()

    async def admit(self, path: str, metadata: Metadata) -> AdmittedCall:
        """Admit a call, or refuse it; the handler runs with ``principal`` set.

        Args:
            path: Call path, ``/package.Service/Method``.
            metadata: Metadata of the call.

        Raises:
            UnauthenticatedError: The key is wrong, or there is none where one is needed.
            DeniedError: The caller's role is too small.
            RateLimitedError: The caller has reached a limit of its key.
            UnavailableError: The action of an operator cannot be recorded.
        """
        role = self.roles.role(path)
        if role is Role.OPEN:
            return AdmittedCall(Admission(), None)
        received = {key: value for key, value in metadata if isinstance(value, str)}
        caller = self.access.identify(received.get(wire.AUTHORIZATION))
        if caller is SOCKET_PEER and (client := received.get(wire.CLIENT)):
            caller = replace(caller, name=client)  # whose call the sidecar forwards
        self.access.require(caller, role, path)
        admitted = self._limit(caller, received)
        principal.set(caller)
        admission.set(admitted)
        if role is Role.OPERATOR and self._audit is not None and caller.has_key:
            try:
                await self._audit.record(caller, path)
            except BaseException:
                admitted.release()
                raise
        counter = self.roles.counter(path) if admitted.counts_tokens else None
        return AdmittedCall(admitted, counter)

    def _limit(self, caller: Principal, received: Mapping[str, str]) -> Admission:
        """Admit the call within its key's limits, unless the gateway has done so already."""
        if self.access.is_service(received.get(wire.FORWARDED_BY)):
            return Admission()
        return self._limiter.admit(caller)
