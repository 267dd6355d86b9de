"""What is seen of a canary, pair by pair, kept in Redis for the gate.

A pair is one request that both tracks answered (the mirror gives them), or else the canary's
request and one of stable's, in order of arrival. Only whether and when there was an answer is
kept, never its text.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from fleet import logs
from fleet.errors import UnavailableError
from fleet.streams import StreamWriter
from prometheus_client import Counter

_LOG = logs.get("gateway.observations")
_MAXLEN = 200_000
_WAITING = 10_000
_UNPAIRED = 64
PREFIX = "bem:canary:"
PAIRS = Counter("bem_gateway_canary_pairs_total", "Pairs observed, by kind.", ["kind"])
LOST = Counter("bem_gateway_canary_pairs_lost_total", "Pairs that could not be kept.")


@dataclass(frozen=True)
class Seen:
    """One answer.

    Attributes:
        seconds: Time to its end.
        failed: Whether there was none, by the server's fault.
        withheld: Whether the safety sidecar withheld it.
    """

    seconds: float
    failed: bool = False
    withheld: bool = False


class Observer:
    """Pairs what is seen of each canary and appends it to the canary's stream.

    Args:
        redis_url: Where the streams are.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._writers: dict[str, StreamWriter] = {}
        self._stable: dict[str, deque[Seen]] = {}
        self._queue: asyncio.Queue[tuple[str, Seen, Seen]] = asyncio.Queue(_WAITING)

    def stable(self, canary_id: str, seen: Seen) -> None:
        """Take an answer of stable that has no partner; the newest ones wait for one."""
        self._stable.setdefault(canary_id, deque(maxlen=_UNPAIRED)).append(seen)

    def canary(self, canary_id: str, seen: Seen) -> None:
        """Take an answer of the canary, and pair it with one of stable's if there is one."""
        waiting = self._stable.get(canary_id)
        if waiting:
            self._put(canary_id, waiting.popleft(), seen, "arrival")

    def pair(self, canary_id: str, stable: Seen, canary: Seen) -> None:
        """Take both answers to one request."""
        self._put(canary_id, stable, canary, "mirror")

    def forget(self, canary_id: str) -> None:
        """Drop what waits for a partner of a canary that has ended."""
        self._stable.pop(canary_id, None)

    async def run(self) -> None:
        """Append pairs for ever; while Redis is away they are counted and lost."""
        while True:
            canary_id, stable, canary = await self._queue.get()
            writer = self._writers.get(canary_id)
            if writer is None:
                writer = StreamWriter(self._url, f"{PREFIX}{canary_id}", _MAXLEN)
                self._writers[canary_id] = writer
            try:
                await writer.append(_fields(stable, canary))
            except UnavailableError as err:
                LOST.inc()
                _LOG.warning("pair lost", canary=canary_id, reason=str(err)[:200])

    async def close(self) -> None:
        """Close the connections."""
        for writer in self._writers.values():
            await writer.close()

    def _put(self, canary_id: str, stable: Seen, canary: Seen, kind: str) -> None:
        try:
            self._queue.put_nowait((canary_id, stable, canary))
        except asyncio.QueueFull:
            LOST.inc()
        else:
            PAIRS.labels(kind).inc()


def _fields(stable: Seen, canary: Seen) -> dict[str, str]:
    return {
        "se": str(int(stable.failed)),
        "ce": str(int(canary.failed)),
        "sv": str(int(stable.withheld)),
        "cv": str(int(canary.withheld)),
        "sl": f"{stable.seconds:.6f}",
        "cl": f"{canary.seconds:.6f}",
    }
