"""Verdicts: the scorer runs as a child process; without its answer nothing is allowed."""

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleet import logs
from fleet.errors import UnavailableError
from prometheus_client import Counter, Histogram

_LOG = logs.get("safety.judge")
_LINE_LIMIT = 64 * 1024 * 1024
_MAX_BATCH = 64

VERDICTS = Counter("bem_safety_verdicts_total", "Texts judged.", ["category", "action"])
CHECK_SECONDS = Histogram(
    "bem_safety_check_seconds",
    "Time of one batch in the scorer.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
RESTARTS = Counter("bem_safety_scorer_restarts_total", "Times the scorer was started again.")


@dataclass(frozen=True)
class Verdict:
    """What the scorer says of one text.

    Attributes:
        category: What it looks for.
        score: Probability of a violation, 0 to 1.
        threshold: At or above it the text is withheld.
    """

    category: str
    score: float
    threshold: float

    @property
    def allowed(self) -> bool:
        """Whether the text may leave."""
        return self.score < self.threshold


class Judge:
    """Asks the scorer; texts that arrive while it works go to it together.

    Args:
        folder: The scorer's artifact.
        timeout_s: Longest wait for a verdict.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._pending: list[tuple[str, asyncio.Future[Verdict]]] = []
        self._wake = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._category = ""
        self._threshold = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the scorer, None while there is none."""
        return self._process.pid if self.alive and self._process else None

    @property
    def alive(self) -> bool:
        """Whether the scorer can answer."""
        return self._process is not None and self._process.returncode is None

    async def check(self, text: str) -> Verdict:
        """Return the verdict on ``text``.

        Raises:
            UnavailableError: The scorer gave none; the text must not leave.
        """
        if not self.alive:
            raise UnavailableError("the safety scorer is not running; nothing may leave")
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._pending.append((text, answer))
        self._wake.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                verdict = await answer
        except TimeoutError as err:
            self._kill()
            raise UnavailableError("the safety scorer did not answer in time") from err
        action = "allow" if verdict.allowed else "filter"
        VERDICTS.labels(verdict.category, action).inc()
        return verdict

    async def run(self) -> None:
        """Keep a scorer running and feed it; ends when cancelled."""
        try:
            while True:
                try:
                    await self._start()
                    while True:
                        await self._feed()
                except (OSError, EOFError, ValueError) as err:
                    _LOG.error("scorer lost", reason=str(err))
                    self._fail_pending()
                    await self._end()
                    RESTARTS.inc()
                    await asyncio.sleep(0.2)
        finally:
            await self._end()

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.safety.scorer",
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
        self._category, self._threshold = hello["category"], hello["threshold"]
        self._process = process
        self._watching = asyncio.create_task(self._watch(process))
        _LOG.info("scorer ready", pid=process.pid, category=self._category)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Wake the feeder when the scorer ends, so that its end is noticed without a request."""
        await process.wait()
        self._wake.set()

    async def _feed(self) -> None:
        """Send one batch and hand out its verdicts; raises when the scorer is gone."""
        process = self._process
        if process is None or process.stdin is None:
            raise EOFError("the scorer has no input")
        await self._wake.wait()
        if process.returncode is not None:
            raise EOFError(f"the scorer ended with status {process.returncode}")
        self._pending = [entry for entry in self._pending if not entry[1].done()]
        if batch := self._pending[:_MAX_BATCH]:
            with CHECK_SECONDS.time():
                process.stdin.write(json.dumps([text for text, _ in batch]).encode() + b"\n")
                scores = json.loads(await self._line(process))
            self._hand_out(batch, scores)
            del self._pending[: len(batch)]
        if not self._pending:
            self._wake.clear()

    def _hand_out(
        self, batch: Sequence[tuple[str, "asyncio.Future[Verdict]"]], scores: list[float]
    ) -> None:
        if len(scores) != len(batch) or not all(math.isfinite(score) for score in scores):
            raise ValueError("the scorer answered with what is no score")
        for (_, answer), score in zip(batch, scores, strict=True):
            if not answer.done():
                answer.set_result(Verdict(self._category, score, self._threshold))

    async def _line(self, process: asyncio.subprocess.Process) -> bytes:
        if process.stdout is None:
            raise EOFError("the scorer has no output")
        line = await process.stdout.readline()
        if not line:
            raise EOFError("the scorer closed its output")
        return line

    def _fail_pending(self) -> None:
        for _, answer in self._pending:
            if not answer.done():
                answer.set_exception(UnavailableError("the safety scorer died; nothing may leave"))
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
