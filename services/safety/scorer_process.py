"""Scorer child process: one tier of scorers, fed in batches over pipes, restarted when it fails."""

import asyncio
import json
import sys
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.query_codec import decode_finding, encode_query
from bem_fleet.services.safety.batch_queue import BatchQueue, Entry, is_long
from bem_fleet.services.safety.circuit_breaker import CircuitBreaker
from fleet import logs
from fleet.errors import OverloadedError, UnavailableError
from prometheus_client import Counter, Gauge, Histogram

_LOG = logs.get("safety.scorer")
_MAX_LINE_BYTES = 64 * 1024 * 1024
_MAX_BATCH = 64
_COMMAND = (sys.executable, "-m", "bem_fleet.guard.scorer")
_RESTART_DELAY_S = 0.2

CHECK_SECONDS = Histogram(
    "bem_safety_check_seconds",
    "Time to score one batch, by tier; with a shared scorer, time of one query.",
    ["tier"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
RESTARTS = Counter(
    "bem_safety_scorer_restarts_total",
    "Restarts of a scorer process or of the connection to a shared one.",
    ["tier"],
)
BREAKER = Gauge(
    "bem_safety_breaker_open", "1 while the circuit breaker of a scorer is open.", ["tier"]
)


class ScorerProcess:
    """Runs one tier in a child process.

    Queries that arrive while the child scores a batch form the next batch. A batch that takes
    longer than ``timeout_s`` means that the child hangs: it is killed and a new one is started.
    After a batch with a long text no other long one is taken for as long as that batch took, so
    that long texts leave half of a processor to everybody else.

    Args:
        tier: ``fast`` or ``deep``.
        folder: Folder of the heads' artifact.
        timeout_s: Longest time of a batch, and longest wait for a finding.
        max_batch: Most queries in a batch.
        command: Command line of the child before tier and folder.
    """

    def __init__(
        self,
        tier: str,
        folder: Path,
        timeout_s: float,
        max_batch: int = _MAX_BATCH,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self.tier = tier
        self._arguments = (*command, tier, str(folder))
        self._timeout_s = timeout_s
        self._max_batch = max_batch
        self._breaker = CircuitBreaker()
        self._queue = BatchQueue()
        self._batch: Sequence[Entry] = ()
        self._wake = asyncio.Event()
        self._next_long_at = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._exit_watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._process.pid if self.is_ready and self._process else None

    @property
    def is_ready(self) -> bool:
        """Whether the child has loaded its scorers and is running."""
        return self._process is not None and self._process.returncode is None

    async def score(self, query: ScoringQuery, client: Hashable = None) -> Finding:
        """Return the finding of one text.

        Args:
            query: The query.
            client: Identity of the client, for fairness between clients.

        Raises:
            OverloadedError: Too many texts wait for a finding in time; the text must not pass.
            UnavailableError: There is no finding, or the circuit breaker is open; the text must
                not pass.
        """
        if not self.is_ready:
            raise UnavailableError(
                f"the {self.tier} safety scorer is not running; texts are blocked"
            )
        if not self._breaker.allow_request():
            raise UnavailableError(
                f"the {self.tier} safety scorer failed {self._breaker.failure_limit} times in a "
                f"row; texts are blocked; retry in {self._breaker.open_s:g} s",
                self._breaker.open_s,
            )
        future: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
        self._queue.put(client, query, future)
        self._wake.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                finding = await future
        except TimeoutError as err:
            # Neither counts as a failure here: the loop counts a batch that hangs, once.
            if any(one is future for _, one in self._batch):
                raise UnavailableError(
                    f"the {self.tier} safety scorer exceeded its time limit of "
                    f"{self._timeout_s:g} s"
                ) from err
            raise OverloadedError(
                f"the {self.tier} safety scorer has too many texts to score; the limit is a wait "
                f"of {self._timeout_s:g} s; retry later",
                self._timeout_s,
            ) from err
        self._breaker.record_success()
        BREAKER.labels(self.tier).set(0)
        return finding

    async def run(self) -> None:
        """Keep a child running and feed it; ends when cancelled."""
        try:
            while True:
                try:
                    await self._start()
                    while True:
                        await self._process_batch()
                except (OSError, EOFError, ValueError) as err:  # a time-out is an OSError
                    reason = str(err) or type(err).__name__
                    _LOG.error("scorer lost", tier=self.tier, reason=reason)
                    self._record_failure()
                    self._fail_pending()
                    await self._stop()
                    RESTARTS.labels(self.tier).inc()
                    await asyncio.sleep(_RESTART_DELAY_S)
        finally:
            await self._stop()

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
        )
        try:
            hello = json.loads(await _read_line(process))
        except BaseException:
            process.kill()
            raise
        self._process = process
        self._exit_watcher = asyncio.create_task(self._watch_exit(process))
        _LOG.info("scorer ready", tier=self.tier, pid=process.pid, scorers=hello["scorers"])

    async def _watch_exit(self, process: asyncio.subprocess.Process) -> None:
        """Wake the feeder when the child ends, so that its end is noticed without a query."""
        await process.wait()
        self._wake.set()

    async def _process_batch(self) -> None:
        """Score one batch; raises when the child has ended or hangs."""
        process = self._process
        if process is None or process.stdin is None:
            raise EOFError("the scorer has no input pipe")
        await self._wake.wait()
        if process.returncode is not None:
            raise EOFError(f"the scorer exited with status {process.returncode}")
        clock = asyncio.get_running_loop()
        began = clock.time()
        self._batch = self._queue.take(self._max_batch, long=began >= self._next_long_at)
        if self._batch:
            line = json.dumps([encode_query(query) for query, _ in self._batch])
            with CHECK_SECONDS.labels(self.tier).time():
                async with asyncio.timeout(self._timeout_s):
                    process.stdin.write(line.encode() + b"\n")
                    response = json.loads(await _read_line(process))
            _resolve(self._batch, response)
            if any(is_long(query) for query, _ in self._batch):
                self._next_long_at = 2 * clock.time() - began
            self._batch = ()
            return
        self._wake.clear()
        if self._queue:  # long texts only, and it is not their turn yet
            clock.call_at(self._next_long_at, self._wake.set)

    def _record_failure(self) -> None:
        self._breaker.record_failure()
        is_open = not self._breaker.allow_request(reserve_probe=False)
        BREAKER.labels(self.tier).set(1 if is_open else 0)

    def _fail_pending(self) -> None:
        for _, future in (*self._batch, *self._queue.drain()):
            if not future.done():
                message = f"the {self.tier} safety scorer ended; texts are blocked"
                future.set_exception(UnavailableError(message))
        self._batch = ()

    async def _stop(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._exit_watcher:
            await self._exit_watcher
        self._process = self._exit_watcher = None


async def _read_line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise EOFError("the scorer has no output pipe")
    line = await process.stdout.readline()
    if not line:
        raise EOFError("the scorer closed its output")
    return line


def _resolve(batch: Sequence[Entry], response: Any) -> None:
    """Hand out the findings of a batch.

    Raises:
        ValueError: The response is not one valid finding per query.
    """
    if not isinstance(response, list) or len(response) != len(batch):
        raise ValueError(f"malformed scorer response: expected {len(batch)} findings")
    for (_, future), fields in zip(batch, response, strict=True):
        finding = decode_finding(fields)
        if not future.done():
            future.set_result(finding)
