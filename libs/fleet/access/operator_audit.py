"""Audit of operators' actions: one record of the audit chain before each of them."""

from fleet import logs
from fleet.access.principal import Principal
from fleet.audit_chain import ChainWriter

ACTION = "operator"
"""Value of ``action`` in the records."""


class OperatorAudit:
    """Appends a record with key's name and method; it connects at the first record.

    Args:
        redis_url: URL of Redis.
        stream: Key of the audit stream.
        secret: Secret of the chain's HMAC; empty for a plain hash.
    """

    def __init__(self, redis_url: str, stream: str, secret: bytes) -> None:
        self._redis_url, self._stream, self._secret = redis_url, stream, secret
        self._writer: ChainWriter | None = None

    async def record(self, operator: Principal, method: str) -> None:
        """Record an action that is about to be carried out.

        Raises:
            UnavailableError: The record could not be stored; the action must not happen.
        """
        if self._writer is None:
            self._writer = ChainWriter(self._redis_url, self._stream, self._secret)
        await self._writer.append(
            {
                "request_id": logs.request_id.get(),
                "method": method,
                "action": ACTION,
                "principal": operator.name,
                "tenant": operator.tenant,
            }
        )

    async def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            await self._writer.close()
