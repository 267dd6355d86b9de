"""Canary observations in Redis: request pairs from the gateway, and scores of probes.

The gateway appends one ``PairObservation`` per entry to ``bem:canary:<id>``; this service appends
the scores of probes to ``bem:canary:<id>:scores``. Both streams are append-only, so an analysis
after a restart reads the same entries in the same order. The stream of pairs is cut off at its
beginning in time: ``bem:canary:<id>:decisions`` names the first entry that an analysis has read,
and holds the final decisions (``canary_decisions``).
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio as redis
from bemfleet.canary.v1 import canary_pb2
from fleet import logs
from fleet.errors import UnavailableError
from fleet.wire import CANARY_STREAM_PREFIX, PAIR_FIELD, PAIR_VERSION
from google.protobuf.message import DecodeError
from prometheus_client import Counter
from redis.exceptions import RedisError

_LOG = logs.get("validation.canary_observations")
FIRST = "-"
"""Cursor before the first entry of a stream."""
SCORES_SUFFIX, DECISIONS_SUFFIX = ":scores", ":decisions"
_FIRST_FIELD = "first"
_PAGE_SIZE = 1000
_TIMEOUT_S = 2.0
SKIPPED = Counter(
    "bem_validation_canary_pairs_skipped_total",
    "Entries of canary streams that are no pair of a known version and no probe score, by reason.",
    ["reason"],
)
Pair = canary_pb2.PairObservation
T = TypeVar("T")


@dataclass(frozen=True)
class ProbeScore:
    """F1 of both tracks on one probe.

    Attributes:
        probe: Index of the probe in the request.
        stable: Score of the stable track, 0 to 1.
        canary: Score of the canary track, 0 to 1.
    """

    probe: int
    stable: float
    canary: float


class CanaryObservations:
    """Reads and appends observations of canaries.

    Args:
        redis_url: URL of the Redis that holds the streams.
    """

    def __init__(self, redis_url: str) -> None:
        # Entries hold serialised messages, so responses stay bytes.
        self._redis: Any = redis.Redis.from_url(
            redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )

    async def read_pairs(self, canary_id: str, after: str) -> tuple[list[Pair], str]:
        """Return the next page of pairs and the cursor after it.

        An entry that cannot be read is counted and skipped: one bad writer must not block the
        analysis of the canary, and with it a rollback.

        Args:
            canary_id: Id of the canary.
            after: Cursor of the page before, or ``FIRST``.

        Returns:
            Pairs in order, and the new cursor; the cursor is ``after`` when there are no entries.

        Raises:
            UnavailableError: Redis does not respond.
        """
        entries, cursor = await self._read_page(f"{CANARY_STREAM_PREFIX}{canary_id}", after)
        return _decode_all(entries, _decode_pair), cursor

    async def read_scores(self, canary_id: str, after: str) -> tuple[list[ProbeScore], str]:
        """Return the next page of probe scores and the cursor after it; see ``read_pairs``."""
        entries, cursor = await self._read_page(_scores_stream(canary_id), after)
        return _decode_all(entries, _decode_score), cursor

    async def append_score(self, canary_id: str, score: ProbeScore) -> None:
        """Append the scores of one probe.

        Raises:
            UnavailableError: Redis does not respond.
        """
        fields = {"probe": score.probe, "stable": repr(score.stable), "canary": repr(score.canary)}
        await _reachable(self._redis.xadd(_scores_stream(canary_id), fields))

    async def has_first_pair(self, canary_id: str) -> bool:
        """Return whether the pairs begin where the first analysis of the canary began.

        The first call that finds an entry records it.

        Raises:
            UnavailableError: Redis does not respond.
        """
        key = f"{CANARY_STREAM_PREFIX}{canary_id}{DECISIONS_SUFFIX}"
        known = await _reachable(self._redis.hget(key, _FIRST_FIELD))
        stream = f"{CANARY_STREAM_PREFIX}{canary_id}"
        entries = await _reachable(self._redis.xrange(stream, "-", "+", count=1))
        if known is None and entries:
            await _reachable(self._redis.hset(key, _FIRST_FIELD, entries[0][0]))
        return known is None or bool(entries and entries[0][0] == known)

    async def read_decision(self, canary_id: str, field: str) -> str | None:
        """Return a stored decision; None if there is none.

        Raises:
            UnavailableError: Redis does not respond.
        """
        key = f"{CANARY_STREAM_PREFIX}{canary_id}{DECISIONS_SUFFIX}"
        found: bytes | None = await _reachable(self._redis.hget(key, field))
        return None if found is None else found.decode()

    async def write_decision(self, canary_id: str, field: str, decision: str) -> None:
        """Store a decision.

        Raises:
            UnavailableError: Redis does not respond.
        """
        key = f"{CANARY_STREAM_PREFIX}{canary_id}{DECISIONS_SUFFIX}"
        await _reachable(self._redis.hset(key, field, decision))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _read_page(self, stream: str, after: str) -> tuple[list[Mapping[bytes, bytes]], str]:
        start = after if after == FIRST else f"({after}"
        entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]] = await _reachable(
            self._redis.xrange(stream, start, "+", count=_PAGE_SIZE)
        )
        cursor = entries[-1][0].decode() if entries else after
        return [fields for _, fields in entries], cursor


def _scores_stream(canary_id: str) -> str:
    return f"{CANARY_STREAM_PREFIX}{canary_id}{SCORES_SUFFIX}"


async def _reachable(call: Awaitable[T]) -> T:
    try:
        return await call
    except (RedisError, OSError, TimeoutError) as err:
        raise UnavailableError(f"canary streams: Redis cannot be reached: {err}") from err


class _UnreadableEntryError(Exception):
    """An entry is not what its stream holds; the message is the reason's label."""


def _decode_all(
    entries: Sequence[Mapping[bytes, bytes]], decode: Callable[[Mapping[bytes, bytes]], T]
) -> list[T]:
    """Decode entries; what cannot be read is counted and skipped."""
    decoded = []
    for fields in entries:
        try:
            decoded.append(decode(fields))
        except _UnreadableEntryError as err:
            reason = str(err)
            SKIPPED.labels(reason).inc()
            _LOG.warning("entry of a canary stream skipped", reason=reason)
    return decoded


def _decode_pair(fields: Mapping[bytes, bytes]) -> Pair:
    content = fields.get(PAIR_FIELD.encode())
    if content is None:
        raise _UnreadableEntryError("missing_field")
    try:
        pair = Pair.FromString(content)
    except DecodeError as err:
        raise _UnreadableEntryError("malformed") from err
    # The version is checked first: fields of another version may have other meanings.
    if pair.version != PAIR_VERSION:
        raise _UnreadableEntryError("unknown_version")
    latencies = (pair.stable.latency_s, pair.canary.latency_s)
    is_complete = pair.HasField("stable") and pair.HasField("canary")
    if not is_complete or any(not math.isfinite(s) or s < 0 for s in latencies):
        raise _UnreadableEntryError("malformed")
    return pair


def _decode_score(fields: Mapping[bytes, bytes]) -> ProbeScore:
    names = (b"probe", b"stable", b"canary")
    if not set(names) <= fields.keys():
        raise _UnreadableEntryError("missing_field")
    probe, stable, canary = (fields[name] for name in names)
    try:
        score = ProbeScore(int(probe), float(stable), float(canary))
    except ValueError as err:
        raise _UnreadableEntryError("malformed") from err
    # NaN fails the comparison too.
    if not (score.probe >= 0 and 0 <= score.stable <= 1 and 0 <= score.canary <= 1):
        raise _UnreadableEntryError("malformed")
    return score
