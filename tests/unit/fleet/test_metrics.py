"""Metrics over HTTP and over gRPC."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bemfleet.common.v1 import metrics_pb2
from fleet import logs, tracing
from fleet.metrics import RPC_SECONDS, MetricsPage, MetricsServicer, observe
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY, Gauge

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


# Prometheus 3 takes names in UTF-8, which changes none of ours.
UTF8 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.2"


@pytest.fixture(autouse=True)
def _name_of_vllm() -> Iterator[None]:
    """A metric with a colon in its name, as those of the engines."""
    gauge = Gauge("vllm:num_requests_waiting", "Help.")
    yield
    REGISTRY.unregister(gauge)


@pytest.mark.parametrize(
    ("accept", "begins", "has_exemplars"),
    [
        ("", "text/plain", False),
        (OPENMETRICS, "application/openmetrics-text", True),
        (UTF8, "application/openmetrics-text", True),
    ],
)
def test_page_and_servicer_expose_the_same_metrics(
    accept: str, begins: str, has_exemplars: bool
) -> None:
    """Both have the format that the reader asks for; OpenMetrics names the recorded traces."""
    with tracing.server_span(TracerProvider(shutdown_on_exit=False).get_tracer("test"), "call"):
        trace_id = logs.traceparent.get().split("-")[1]
        observe(RPC_SECONDS.labels("/method", "OK"), 0.25)
    page = MetricsPage("127.0.0.1:0")
    answer = httpx.get(f"http://127.0.0.1:{page.port}/metrics", headers={"Accept": accept})
    text, content_type = answer.text, answer.headers["Content-Type"]
    page.close()
    context: Any = None
    request = metrics_pb2.ScrapeRequest(accept=accept)
    scraped = asyncio.run(MetricsServicer().Scrape(request, context))

    for found, kind in ((text, content_type), (scraped.exposition.decode(), scraped.content_type)):
        assert kind.startswith(begins)
        assert "# TYPE bem_fleet_rpc_seconds histogram" in found
        assert "\nvllm:num_requests_waiting 0.0\n" in found
        assert (trace_id in found) == has_exemplars
