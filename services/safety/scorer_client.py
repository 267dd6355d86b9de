"""Client of the shared scorer server: one tier over a unix socket, with automatic reconnection."""

import asyncio
import json
import socket
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.query_codec import decode_finding, encode_query
from bem_fleet.services.safety.circuit_breaker import CircuitBreaker
from bem_fleet.services.safety.scorer_process import BREAKER, CHECK_SECONDS, RESTARTS
from fleet import logs
from fleet.errors import OverloadedError, UnavailableError

_LOG = logs.get("safety.scorer_client")
_MAX_LINE_BYTES = 64 * 1024 * 1024
_RECONNECT_DELAY_S = 0.2
# Beyond the time limit, for the server's own answer that it is exceeded.
_RESPONSE_S = 0.2


class ScorerClient:
    """Scores texts in the scorer server of the machine; the counterpart of ``ScorerProcess``.

    Args:
        tier: ``fast`` or ``deep``.
        path: Unix socket of the scorer server.
        timeout_s: Longest wait for a finding.
    """

    def __init__(self, tier: str, path: Path, timeout_s: float) -> None:
        self.tier = tier
        self._path = path
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker()
        self._ids = count()
        self._pending: dict[int, asyncio.Future[Finding]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._tier_is_ready = False

    @property
    def is_ready(self) -> bool:
        """Whether the server is connected and reports that the tier can score."""
        return self._writer is not None and self._tier_is_ready

    async def score(self, query: ScoringQuery, client: str = "") -> Finding:
        """Return the finding of one text.

        Args:
            query: The query.
            client: Name of the client whose text it is, for fairness between clients.

        Raises:
            OverloadedError: Too many texts wait for a finding in time; the text must not pass.
            UnavailableError: There is no finding, or the circuit breaker is open; the text must
                not pass.
        """
        if self._writer is None or not self._tier_is_ready:
            raise UnavailableError(
                f"the {self.tier} safety scorer is not connected; texts are blocked"
            )
        if not self._breaker.allow_request():
            raise UnavailableError(
                f"the {self.tier} safety scorer failed {self._breaker.failure_limit} times in a "
                f"row; texts are blocked; retry in {self._breaker.open_s:g} s",
                self._breaker.open_s,
            )
        request_id = next(self._ids)
        future: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        own = {"id": request_id, "tier": self.tier, "client": client}
        message = own | {"query": encode_query(query)}
        try:
            with CHECK_SECONDS.labels(self.tier).time():
                self._writer.write(json.dumps(message).encode() + b"\n")
                # The server ends the wait for a batch after this time, and says so.
                async with asyncio.timeout(self._timeout_s + _RESPONSE_S):
                    finding = await future
        except TimeoutError as err:
            self._record_failure()
            raise UnavailableError(
                f"the {self.tier} safety scorer exceeded its time limit of {self._timeout_s:g} s"
            ) from err
        except UnavailableError:
            self._record_failure()
            raise
        finally:
            del self._pending[request_id]
        self._breaker.record_success()
        BREAKER.labels(self.tier).set(0)
        return finding

    async def run(self) -> None:
        """Keep a connection to the server; ends when cancelled."""
        while True:
            with suppress(OSError):  # no server yet: callers see is_ready
                reader, self._writer = await asyncio.open_unix_connection(
                    str(self._path), limit=_MAX_LINE_BYTES
                )
                try:
                    await self._read_responses(reader)
                finally:
                    self._disconnect()
            await asyncio.sleep(_RECONNECT_DELAY_S)

    async def _read_responses(self, reader: asyncio.StreamReader) -> None:
        """Resolve the pending queries until the connection ends."""
        try:
            while line := await reader.readline():
                self._handle(json.loads(line))
            reason = "closed by the server"
        except (OSError, ValueError) as err:
            reason = str(err)
        _LOG.error("scorer lost", tier=self.tier, reason=reason)
        RESTARTS.labels(self.tier).inc()

    def _handle(self, message: Any) -> None:
        """Handle a status or a response.

        Raises:
            ValueError: The message is malformed; the connection must be closed.
        """
        try:
            if "alive" in message:
                self._tier_is_ready = message["alive"][self.tier] is True
                return
            future = self._pending.get(message["id"])
            error = message.get("error")
            finding = None if error is not None else decode_finding(message["finding"])
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"malformed scorer message: {str(message)[:80]}") from err
        if future is None or future.done():
            return  # its caller has given up
        if finding is None and message.get("overloaded"):
            future.set_exception(OverloadedError(str(error), self._timeout_s))
        elif finding is None:
            future.set_exception(UnavailableError(str(error)))
        else:
            future.set_result(finding)

    def _disconnect(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer, self._tier_is_ready = None, False
        for future in self._pending.values():
            if not future.done():
                message = f"the {self.tier} safety scorer ended; texts are blocked"
                future.set_exception(UnavailableError(message))

    def _record_failure(self) -> None:
        self._breaker.record_failure()
        is_open = not self._breaker.allow_request(reserve_probe=False)
        BREAKER.labels(self.tier).set(1 if is_open else 0)


def is_ready(path: Path, timeout_s: float = 1.0) -> bool:
    """Return whether a scorer server listens on a socket and all its tiers can score.

    Args:
        path: Unix socket of the scorer server.
        timeout_s: Longest wait.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            with connection.makefile("rb") as stream:
                status = json.loads(stream.readline())
            return all(status["alive"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
