"""Metrics over HTTP and over gRPC."""

import asyncio
import urllib.request
from typing import Any

from bemfleet.common.v1 import metrics_pb2
from fleet.metrics import MetricsPage, MetricsServicer


def test_page_and_servicer_expose_the_same_metrics() -> None:
    """Both contain the call histogram in Prometheus' text format."""
    page = MetricsPage("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics") as answer:
        text = answer.read()
    page.close()
    context: Any = None
    scraped = asyncio.run(MetricsServicer().Scrape(metrics_pb2.ScrapeRequest(), context))

    assert b"# TYPE bem_fleet_rpc_seconds histogram" in text
    assert b"# TYPE bem_fleet_rpc_seconds histogram" in scraped.exposition
