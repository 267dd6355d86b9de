"""A scorer as a child process: batches in, findings out; without its answer nothing is allowed."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.scorer import pack, unpack
from bem_fleet.services.safety.circuit_breaker import CircuitBreaker
from fleet import logs
from fleet.errors import UnavailableError
from prometheus_client import Counter, Gauge, Histogram

_LOG = logs.get("safety.scorer")
_LINE_LIMIT = 64 * 1024 * 1024
_MAX_BATCH = 64
_Waiting = tuple[ScoringQuery, "asyncio.Future[Finding]"]

CHECK_SECONDS = Histogram(
    "bem_safety_check_seconds",
    "Time of one batch in a scorer.",
    ["tier"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
RESTARTS = Counter("bem_safety_scorer_restarts_total", "Times a scorer was started.", ["tier"])
BREAKER = Gauge("bem_safety_breaker_open", "1 while a scorer is not asked.", ["tier"])


class ScorerProcess:
    """Asks one tier; queries that arrive while it works go to it together.

    Args:
        tier: ``fast`` or ``deep``.
        folder: The heads' artifact.
        timeout_s: Longest wait for a finding.
    """

    def __init__(self, tier: str, folder: Path, timeout_s: float) -> None:
        self.tier = tier
        self._folder = folder
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker()
        self._pending: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the scorer, None while there is none."""
        return self._process.pid if self.alive and self._process else None

    @property
    def alive(self) -> bool:
        """Whether the scorer can answer."""
        return self._process is not None and self._process.returncode is None

    async def read(self, query: ScoringQuery) -> Finding:
        """Return what the scorer reads in one text.

        Raises:
            UnavailableError: It gave no finding, or failed so often of late that it is not asked;
                the text must not pass.
        """
        if not self.alive:
            raise UnavailableError(
                f"the {self.tier} safety scorer is not running; nothing may leave"
            )
        if not self._breaker.allow_request():
            raise UnavailableError(
                f"the {self.tier} safety scorer failed {self._breaker.limit} times in a row; "
                "nothing may leave",
                self._breaker.rest_s,
            )
        answer: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
        self._pending.append((query, answer))
        self._wake.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                finding = await answer
        except TimeoutError as err:
            self._failed()
            self._kill()
            raise UnavailableError(f"the {self.tier} safety scorer did not answer in time") from err
        self._breaker.succeeded()
        BREAKER.labels(self.tier).set(0)
        return finding

    async def run(self) -> None:
        """Keep a scorer running and feed it; ends when cancelled."""
        try:
            while True:
                try:
                    await self._start()
                    while True:
                        await self._feed()
                except (OSError, EOFError, ValueError) as err:
                    _LOG.error("scorer lost", tier=self.tier, reason=str(err))
                    self._failed()
                    self._fail_pending()
                    await self._end()
                    RESTARTS.labels(self.tier).inc()
                    await asyncio.sleep(0.2)
        finally:
            await self._end()

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bem_fleet.guard.scorer",
            self.tier,
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        try:
            hello = json.loads(await self._line(process))
        except BaseException:
            process.kill()
            raise
        self._process = process
        self._watching = asyncio.create_task(self._watch(process))
        _LOG.info("scorer ready", tier=self.tier, pid=process.pid, scorers=hello["scorers"])

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Wake the feeder when the scorer ends, so that its end is noticed without a request."""
        await process.wait()
        self._wake.set()

    async def _feed(self) -> None:
        """Send one batch and hand out its findings; raises when the scorer is gone."""
        process = self._process
        if process is None or process.stdin is None:
            raise EOFError("the scorer has no input")
        await self._wake.wait()
        if process.returncode is not None:
            raise EOFError(f"the scorer ended with status {process.returncode}")
        self._pending = [entry for entry in self._pending if not entry[1].done()]
        if batch := self._pending[:_MAX_BATCH]:
            with CHECK_SECONDS.labels(self.tier).time():
                line = json.dumps([encode_query(query) for query, _ in batch])
                process.stdin.write(line.encode() + b"\n")
                found = json.loads(await self._line(process))
            _hand_out(batch, found)
            del self._pending[: len(batch)]
        if not self._pending:
            self._wake.clear()

    async def _line(self, process: asyncio.subprocess.Process) -> bytes:
        if process.stdout is None:
            raise EOFError("the scorer has no output")
        line = await process.stdout.readline()
        if not line:
            raise EOFError("the scorer closed its output")
        return line

    def _failed(self) -> None:
        self._breaker.failed()
        BREAKER.labels(self.tier).set(0 if self._breaker.allow_request(reserve_probe=False) else 1)

    def _fail_pending(self) -> None:
        for _, answer in self._pending:
            if not answer.done():
                answer.set_exception(
                    UnavailableError(f"the {self.tier} safety scorer died; nothing may leave")
                )
        self._pending.clear()

    def _kill(self) -> None:
        """End a scorer that hangs; ``run`` starts the next one."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> None:
        self._kill()
        if self._process:
            await self._process.wait()
        if self._watching:
            await self._watching
        self._process = self._watching = None


def _hand_out(batch: Sequence[_Waiting], rows: object) -> None:
    if not isinstance(rows, list) or len(rows) != len(batch):
        raise ValueError("the scorer answered with what are no findings")
    for (_, answer), row in zip(batch, rows, strict=True):
        finding = decode_finding(row)
        if not answer.done():
            answer.set_result(finding)
