"""Reading of the metrics pages while somebody watches."""

import asyncio
import http.server
import threading
import time
from collections.abc import Iterator

import pytest
from bem_fleet.services.gateway import metrics_collector
from bem_fleet.services.gateway.metrics_collector import OWN_PAGE, MetricsCollector, fetch

from tests.support.waiting import eventually


class _Pages(http.server.BaseHTTPRequestHandler):
    """Metrics pages: one that works, one that fails, one that is no metrics page."""

    def do_GET(self) -> None:
        """Answer by path."""
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()
        text = "process_resident_memory_bytes nonsense" if self.path == "/odd" else "x 1"
        self.wfile.write(
            b"process_resident_memory_bytes 4096" if self.path == "/m" else text.encode()
        )

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    """Address of the pages."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_each_page_has_its_figures_or_a_reason(host: str) -> None:
    """A page that is away, broken or odd hides no other one; the gateway's own is there."""
    pages = {name: f"{host}/{name}" for name in ("m", "broken", "odd")}
    collector = MetricsCollector({**pages, "away": "127.0.0.1:1/metrics"})
    async with collector.watch():
        metrics = collector.metrics()
    read = {one.name: one for one in metrics.processes}

    assert list(read) == ["m", "broken", "odd", "away", OWN_PAGE]
    assert read["m"].points[0].memory_bytes == 4096
    assert "500" in read["broken"].reason
    assert read["odd"].reason
    assert read["away"].reason
    assert (read["m"].reason, read[OWN_PAGE].reason) == ("", "")
    assert metrics.cores >= 1
    assert metrics.memory_bytes > 2**20


async def test_watchers_share_one_reader_that_ends_with_the_last(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two open pages cost what one costs, and none costs nothing."""
    monkeypatch.setattr(metrics_collector, "INTERVAL_S", 0.01)
    before = len(asyncio.all_tasks())
    collector = MetricsCollector({"m": f"{host}/m"})
    async with collector.watch():
        async with collector.watch():
            assert len(asyncio.all_tasks()) == before + 1
        await eventually(lambda: len(collector.metrics().processes[0].points) >= 3, 10)

    assert len(asyncio.all_tasks()) == before


async def test_points_are_sent_once(host: str) -> None:
    """A reader that names its last point gets the newer ones only."""
    collector = MetricsCollector({"m": f"{host}/m"})
    await collector.read()
    last = collector.metrics().processes[0].points[-1].unix_ms
    await asyncio.sleep(0.005)
    await collector.read()

    assert len(collector.metrics().processes[0].points) == 2
    assert [one.unix_ms > last for one in collector.metrics(last).processes[0].points] == [True]


async def test_rates_begin_again_after_a_time_without_watchers(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over an hour of nobody watching is not shown as a rate of now."""
    collector = MetricsCollector({"m": f"{host}/m"})
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    await collector.read()
    now[0] += 2
    await collector.read()
    now[0] += 3600
    await collector.read()
    points = collector.metrics().processes[-1].points

    assert [one.cpu_cores is None for one in points] == [True, False, True]


def test_page_without_an_end_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process cannot fill the gateway's memory."""
    monkeypatch.setattr(metrics_collector, "_MAX_PAGE_BYTES", 2)

    with pytest.raises(ValueError, match="larger than 2 bytes"):
        fetch(f"{host}/m")
