"""Feedback consumer: member of the queue's consumer group that gives entries their effect.

New entries come in batches. An entry whose consumer died is claimed after ``claim_idle_s``, one at
a time: an entry that kills its process is then the only one whose deliveries grow, and becomes a
dead letter after ``ProcessorLimits.deliveries``.
"""

import asyncio
import os
import socket
import time
from dataclasses import dataclass
from uuid import uuid4

from fleet import logs
from fleet.errors import InvalidArgumentError, UnavailableError
from fleet.redis_pipe import RedisPipe

from bem_fleet.feedback import metrics
from bem_fleet.feedback.dead_letters import DeadLetters
from bem_fleet.feedback.event_store import EventStore
from bem_fleet.feedback.limits import ProcessorLimits
from bem_fleet.feedback.processor import FamilyOf, effect_of, family_by_prompt
from bem_fleet.feedback.record import FeedbackRecord, parse_record
from bem_fleet.feedback.redis_keys import GROUP, STREAM

_LOG = logs.get("feedback.consumer")
_REPLY_MARGIN_S = 5.0
_RETRY_S = 0.5
# Removing a consumer would remove its pending entries: look and removal are one script. The XDEL of
# nothing lets XGROUP pass at maxmemory, as in event_store.FENCE.
_REMOVE_IDLE = """
local removed = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local one = {}
  for n = 1, #flat, 2 do one[flat[n]] = flat[n + 1] end
  if one.pending == 0 and one.idle > tonumber(ARGV[2]) and one.name ~= ARGV[3] then
    redis.call('XDEL', KEYS[1], '0-0')
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], one.name)
    removed = removed + 1
  end
end
return removed
"""
Entry = tuple[str, bytes]


@dataclass(frozen=True)
class ConsumerTiming:
    """Times and sizes of a consumer's rounds.

    Attributes:
        batch: Most new entries of a round.
        block_s: Longest wait for a new entry, in seconds.
        claim_idle_s: Time after its delivery at which an entry is taken over, in seconds; longer
            than a batch takes.
        upkeep_s: Time between two looks for such entries, which also set the gauges, in seconds.
        remove_idle_s: Time after which an idle consumer without entries is removed, in seconds.
    """

    batch: int = 256
    block_s: float = 1.0
    claim_idle_s: float = 60.0
    upkeep_s: float = 5.0
    remove_idle_s: float = 3600.0


class FeedbackConsumer:
    """Takes entries from the queue until it is stopped.

    Args:
        redis_url: URL of Redis.
        family_of: Function that names the family of a record.
        limits: Limits of the processor.
        timing: Times and sizes of its rounds.
        stream: Key of the stream.

    Attributes:
        name: Name in the consumer group, another one for each process.
        store: Store of the effects.
        dead_letters: Dead letters.
        available: Whether Redis answered in the last round.
    """

    def __init__(
        self,
        redis_url: str,
        family_of: FamilyOf = family_by_prompt,
        limits: ProcessorLimits | None = None,
        timing: ConsumerTiming | None = None,
        stream: str = STREAM,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.available = True
        self._family_of, self._stream = family_of, stream
        self._limits, self._timing = limits or ProcessorLimits(), timing or ConsumerTiming()
        self.store = EventStore(redis_url, self._limits, stream)
        self.dead_letters = DeadLetters(redis_url, self._limits.dead_letters, stream)
        reply_s = self._timing.block_s + _REPLY_MARGIN_S
        # A blocking read holds its connection: everything else uses another one.
        self._reads = RedisPipe(redis_url, reply_s, f"consumer of {stream}")
        self._calls = RedisPipe(redis_url, _REPLY_MARGIN_S, f"consumer of {stream}")
        self._has_group = False
        self._next_upkeep = 0.0

    async def run(self) -> None:
        """Process entries until the task is cancelled; an error of Redis delays the next round."""
        while True:
            try:
                await self.round()
            except UnavailableError as err:
                metrics.INTERRUPTED.inc()
                if self.available:
                    _LOG.warning("feedback waits for Redis", reason=str(err))
                self.available = False
                self._has_group = False  # it may be a new, empty Redis
                await asyncio.sleep(_RETRY_S)
            else:
                self.available = True

    async def round(self) -> int:
        """Claim what other consumers left, then take one batch; return the number of entries.

        Raises:
            UnavailableError: Redis failed; entries without an effect are still pending.
        """
        if not self._has_group:
            await self._find_group()
        count = 0
        if time.monotonic() >= self._next_upkeep:
            count = await self._claim()
            await self._upkeep()
            self._next_upkeep = time.monotonic() + self._timing.upkeep_s
        entries = await self._read()
        await asyncio.gather(*(self._process(entry, 1) for entry in entries))
        return count + len(entries)

    def close(self) -> None:
        """Close the connections."""
        for one in (self._reads, self._calls, self.store, self.dead_letters):
            one.close()

    async def _find_group(self) -> None:
        try:
            await self._calls.call("XPENDING", self._stream, GROUP)
        except UnavailableError as err:
            if "NOGROUP" not in str(err):
                raise
            await self._make_group()
        self._has_group = True

    async def _make_group(self) -> None:
        try:
            await self._calls.call("XGROUP", "CREATE", self._stream, GROUP, "0", "MKSTREAM")
        except UnavailableError as err:
            if "BUSYGROUP" not in str(err):
                raise

    async def _read(self) -> list[Entry]:
        block_ms = max(1, int(self._timing.block_s * 1000))
        found = await self._reads.call(
            *("XREADGROUP", "GROUP", GROUP, self.name, "COUNT", self._timing.batch),
            *("BLOCK", block_ms, "STREAMS", self._stream, ">"),
        )
        return await self._bodies([one[0] for one in found[0][1]]) if found else []

    async def _bodies(self, identifiers: list[bytes]) -> list[Entry]:
        """Return entries with their bodies; that of a foreign or forgotten entry is empty."""
        bodies = await self._calls.call("HMGET", f"{self._stream}:bodies", *identifiers)
        pairs = zip(identifiers, bodies, strict=True)
        return [(identifier.decode(), body or b"") for identifier, body in pairs]

    async def _claim(self) -> int:
        """Process the entries that were delivered long ago, one at a time."""
        idle_ms, cursor, count = int(self._timing.claim_idle_s * 1000), "0-0", 0
        while True:
            reply = await self._calls.call(
                *("XAUTOCLAIM", self._stream, GROUP, self.name, idle_ms, cursor, "COUNT", 1)
            )
            cursor = reply[0].decode()
            for one in reply[1]:
                if one and one[1] is not None:  # Redis 6 lists entries that a person deleted
                    (entry,) = await self._bodies([one[0]])
                    await self._process(entry, await self._deliveries(entry[0]))
                    count += 1
            if cursor == "0-0":
                metrics.CLAIMED.inc(count)
                return count

    async def _deliveries(self, identifier: str) -> int:
        pending = await self._calls.call("XPENDING", self._stream, GROUP, identifier, identifier, 1)
        return int(pending[0][3]) if pending else 1

    async def _process(self, entry: Entry, deliveries: int) -> None:
        """Give an entry its effect, or move it to the dead letters.

        An unexpected error leaves the entry pending: it is claimed and tried again until its
        deliveries end.
        """
        identifier, body = entry
        limit = self._limits.deliveries
        try:
            record = parse_record(body)
        except InvalidArgumentError as err:
            await self._bury(entry, str(err), deliveries)
            return
        if deliveries > limit:
            reason = f"deliveries: {deliveries - 1} without an effect; at most {limit}"
            await self._bury(entry, reason, deliveries)
            return
        try:
            effect = effect_of(identifier, record, await self._family(record))
        except Exception as err:  # noqa: BLE001 - tried again, then a dead letter with its type
            kind = type(err).__name__
            metrics.FAILED.labels(kind).inc()
            # The error's text may repeat the person's.
            _LOG.error("feedback is not processed", entry=identifier, error=kind)
            if deliveries == limit:
                reason = f"processing: {kind} at each of {limit} deliveries"
                await self._bury(entry, reason, deliveries)
            return
        metrics.PROCESSED.labels(await self.store.apply(identifier, effect)).inc()

    async def _family(self, record: FeedbackRecord) -> str:
        """Return the family of a record; empty without consent, where nothing is kept."""
        if not record.consent:
            return ""
        found = self._family_of(record)
        return found if isinstance(found, str) else await found

    async def _bury(self, entry: Entry, reason: str, deliveries: int) -> None:
        outcome = await self.dead_letters.bury(*entry, reason, deliveries)
        metrics.PROCESSED.labels(outcome).inc()
        _LOG.warning("feedback is a dead letter", entry=entry[0], reason=reason, outcome=outcome)

    async def _upkeep(self) -> None:
        """Set the gauges, and remove consumers that are gone."""
        idle_ms = int(self._timing.remove_idle_s * 1000)
        await self._calls.call("EVAL", _REMOVE_IDLE, 1, self._stream, GROUP, idle_ms, self.name)
        backlog, oldest, dead, events, families = await asyncio.gather(
            self._calls.call("XLEN", self._stream),
            self._calls.call("XRANGE", self._stream, "-", "+", "COUNT", 1),
            self._calls.call("XLEN", f"{self._stream}:dead"),
            self._calls.call("HLEN", f"{self._stream}:events"),
            self._calls.call("ZCARD", f"{self._stream}:families"),
        )
        metrics.BACKLOG.set(backlog)
        written_s = int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else time.time()
        metrics.OLDEST.set(max(0.0, time.time() - written_s))
        metrics.DEAD.set(dead)
        metrics.DEAD_ROOM.set(self._limits.dead_letters - dead)
        metrics.EVENTS.set(events)
        metrics.FAMILIES.set(families)
