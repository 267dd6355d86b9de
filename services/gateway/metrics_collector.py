"""Metrics collector: reads the metrics pages of the fleet while somebody watches.

All watchers share one reading of each page. Nobody's watching costs nothing.
"""

import asyncio
import http.client
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bem_fleet.services.gateway.fleet_schema import Metrics, ProcessMetrics, ProcessPoint
from bem_fleet.services.gateway.metrics_samples import PageSamples, parse_page, process_point
from fleet import logs
from prometheus_client import generate_latest

INTERVAL_S = 2.0
"""Time between two readings, in seconds."""

KEPT_POINTS = 450
"""Points of each process that are kept: 15 minutes."""

OWN_PAGE = "gateway"
_LOG = logs.get("gateway.metrics_collector")
_WINDOW = 31  # readings of the percentiles' minute
_GAP_S = 5 * INTERVAL_S
_TIMEOUT_S = 2.0
_MAX_PAGE_BYTES = 8 * 1024 * 1024


class _Page:
    """Readings of one metrics page."""

    def __init__(self) -> None:
        self.readings: deque[PageSamples] = deque(maxlen=_WINDOW)
        self.points: deque[ProcessPoint] = deque(maxlen=KEPT_POINTS)
        self.reason = "not read yet"

    def add(self, text: str) -> None:
        """Take a reading; rates begin again where nobody has watched for a while."""
        if self.readings and time.time() - self.readings[-1].unix_s > _GAP_S:
            self.readings.clear()
        self.readings.append(parse_page(text, time.time()))
        self.points.append(process_point(self.readings))
        self.reason = ""

    def fail(self, reason: str) -> None:
        """Note a page that cannot be read; rates begin again after it."""
        self.readings.clear()
        self.reason = reason


class MetricsCollector:
    """Figures of all processes.

    Args:
        pages: ``host:port/path`` of each process's metrics page by the name of the process.
    """

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._addresses = dict(pages)
        self._pages = {name: _Page() for name in (*pages, OWN_PAGE)}
        self._watchers = 0
        self._reading: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Read the pages for as long as the context is open; the first reading is done before."""
        self._watchers += 1
        try:
            if self._reading is None:
                await self.read()
                if self._reading is None:  # another watcher may have begun meanwhile
                    self._reading = asyncio.create_task(self._run())
            yield
        finally:
            self._watchers -= 1
            reading = self._reading
            if not self._watchers and reading is not None:
                self._reading = None
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def read(self) -> None:
        """Read every page once, all at the same time."""
        await asyncio.gather(*(self._read(name) for name in self._pages))

    def metrics(self, after_unix_ms: int = 0) -> Metrics:
        """Return the points that are newer than a time.

        Args:
            after_unix_ms: Time of the last point that the reader has, in milliseconds since the
                epoch; 0 for all points.
        """
        return Metrics(
            cores=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            interval_s=INTERVAL_S,
            processes=[
                ProcessMetrics(
                    name=name,
                    reason=page.reason,
                    points=[point for point in page.points if point.unix_ms > after_unix_ms],
                )
                for name, page in self._pages.items()
            ],
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.read()

    async def _read(self, name: str) -> None:
        page = self._pages[name]
        try:
            if name == OWN_PAGE:
                page.add(generate_latest().decode())
            else:
                page.add(await asyncio.to_thread(fetch, self._addresses[name]))
        except (OSError, ValueError, http.client.HTTPException) as err:
            page.fail(f"{self._addresses.get(name, name)}: {err or type(err).__name__}"[:200])
            _LOG.debug("page not read", process=name, reason=page.reason)


def fetch(address: str) -> str:
    """Return the body of a page.

    Args:
        address: ``host:port/path``.

    Raises:
        OSError: It cannot be reached.
        HTTPException: The answer is not HTTP.
        ValueError: The status is not 200, or the page is too large.
    """
    host, _, path = address.partition("/")
    connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        body = answer.read(_MAX_PAGE_BYTES + 1)
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise ValueError(f"status {answer.status}")
    if len(body) > _MAX_PAGE_BYTES:
        raise ValueError(f"the page is larger than {_MAX_PAGE_BYTES} bytes")
    return body.decode()
