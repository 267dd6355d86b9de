"""Canary observations: paired request outcomes in Redis, read by canary analysis.

A pair is one request that both tracks answered (mirrored, or answered by stable after the canary
failed), or else a request of the canary and one of stable, in order of arrival. A pair says only
whether and how fast there was an answer, never its text.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bemfleet.canary.v1 import canary_pb2
from fleet import logs, wire
from fleet.errors import UnavailableError
from fleet.streams import StreamWriter
from prometheus_client import Counter

_LOG = logs.get("gateway.canary_observations")
_FLUSH_LIMIT_S = 10.0
# Pairs of one round trip: under load they come faster than Redis acknowledges one by one.
_BATCH = 100
_MAX_QUEUED_PAIRS = 10_000
_MAX_UNPAIRED = 64
PAIRS = Counter("bem_gateway_canary_pairs_total", "Pairs observed, by kind.", ["kind"])
LOST = Counter("bem_gateway_canary_pairs_lost_total", "Pairs that could not be stored.")


@dataclass(frozen=True)
class RequestOutcome:
    """Outcome of one request on one track.

    Attributes:
        latency_s: Time from the request to the end of the answer, in seconds.
        failed: Whether there was no complete answer through the server's fault.
        withheld: Whether the safety sidecar withheld the answer.
        empty: Whether the answer ended without any text, where the method answers with text.
        truncated: Whether the answer was cut off at a limit.
    """

    latency_s: float
    failed: bool = False
    withheld: bool = False
    empty: bool = False
    truncated: bool = False


_QueuedPair = tuple[str, RequestOutcome, RequestOutcome]


class CanaryObserver:
    """Pairs the outcomes of each active canary and appends them to the canary's Redis stream.

    Args:
        redis_url: Redis of the streams.
    """

    def __init__(self, redis_url: str) -> None:
        self._writer = StreamWriter(redis_url, wire.CANARY_STREAM_PREFIX, wire.CANARY_STREAM_PAIRS)
        self._unpaired: dict[str, deque[RequestOutcome]] = {}
        self._queue: asyncio.Queue[_QueuedPair] = asyncio.Queue(_MAX_QUEUED_PAIRS)
        self._writing: list[_QueuedPair] = []

    @property
    def active_canaries(self) -> Collection[str]:
        """Ids of the canaries whose unpaired outcomes are kept."""
        return self._unpaired.keys()

    def set_active_canaries(self, canary_ids: Collection[str]) -> None:
        """Keep state for these canaries only; the outcomes of all others are dropped."""
        self._unpaired = {
            canary_id: self._unpaired.get(canary_id, deque(maxlen=_MAX_UNPAIRED))
            for canary_id in canary_ids
        }

    def record_stable(self, canary_id: str, outcome: RequestOutcome) -> None:
        """Record an outcome of stable without a partner; the newest ones wait for one."""
        unpaired = self._unpaired.get(canary_id)
        if unpaired is not None:
            unpaired.append(outcome)

    def record_canary(self, canary_id: str, outcome: RequestOutcome) -> None:
        """Record an outcome of the canary, paired with the oldest waiting one of stable."""
        unpaired = self._unpaired.get(canary_id)
        if unpaired:
            self._enqueue(canary_id, unpaired.popleft(), outcome, "arrival")

    def record_pair(self, canary_id: str, stable: RequestOutcome, canary: RequestOutcome) -> None:
        """Record the outcomes of both tracks for one request."""
        self._enqueue(canary_id, stable, canary, "mirror")

    async def run(self) -> None:
        """Append pairs until cancelled; while Redis is unavailable they are counted and lost."""
        while True:
            self._writing = [await self._queue.get(), *self._take(_BATCH - 1)]
            await self._append(self._writing)
            self._writing = []

    async def close(self) -> None:
        """Append the pairs that still wait, for some seconds, and close the connection.

        Pairs that a restart dropped would be missing from the analysis, and with them perhaps the
        errors that the restart was for.
        """
        # Pairs that were being appended when ``run`` was cancelled may be stored twice, which is
        # better than losing them.
        waiting = [*self._writing, *self._take(_MAX_QUEUED_PAIRS)]
        try:
            async with asyncio.timeout(_FLUSH_LIMIT_S):
                while waiting:
                    await self._append(waiting[:_BATCH])
                    del waiting[:_BATCH]
        except TimeoutError:
            LOST.inc(len(waiting))
            _LOG.warning("pairs lost at the end of the process", pairs=len(waiting))
        await self._writer.close()

    def _take(self, count: int) -> list[_QueuedPair]:
        """Return pairs that wait, the oldest first."""
        return [self._queue.get_nowait() for _ in range(min(count, self._queue.qsize()))]

    async def _append(self, batch: Sequence[_QueuedPair]) -> None:
        records = [
            (
                wire.CANARY_STREAM_PREFIX + canary_id,
                {wire.PAIR_FIELD: _observation(stable, canary).SerializeToString()},
            )
            for canary_id, stable, canary in batch
        ]
        try:
            await self._writer.append_all(records)
        except UnavailableError as err:
            LOST.inc(len(batch))
            _LOG.warning("pairs lost", pairs=len(batch), reason=str(err)[:200])

    def _enqueue(
        self, canary_id: str, stable: RequestOutcome, canary: RequestOutcome, kind: str
    ) -> None:
        try:
            self._queue.put_nowait((canary_id, stable, canary))
        except asyncio.QueueFull:
            LOST.inc()
        else:
            PAIRS.labels(kind).inc()


def _observation(stable: RequestOutcome, canary: RequestOutcome) -> canary_pb2.PairObservation:
    return canary_pb2.PairObservation(
        version=wire.PAIR_VERSION, stable=_outcome(stable), canary=_outcome(canary)
    )


def _outcome(outcome: RequestOutcome) -> canary_pb2.Outcome:
    return canary_pb2.Outcome(
        failed=outcome.failed,
        withheld=outcome.withheld,
        latency_s=outcome.latency_s,
        empty=outcome.empty,
        truncated=outcome.truncated,
    )
