"""Prometheus metrics of a process, over HTTP and over gRPC."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from bemfleet.common.v1 import metrics_pb2 as pb
from bemfleet.common.v1 import metrics_pb2_grpc as rpc
from prometheus_client import (
    REGISTRY,
    Counter,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from fleet import tracing
from fleet.listening import tcp_endpoint

RPC_SECONDS = Histogram(
    "bem_fleet_rpc_seconds",
    "Time from the arrival of a call to its end, by method and status code.",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
STALLED = Counter(
    "bem_fleet_stalled_streams_total",
    "Response streams cancelled because their client stopped reading, by method.",
    ["method"],
)


def observe(histogram: Histogram, value: float) -> None:
    """Observe a value, with the trace of the current request as exemplar if it is recorded.

    Args:
        histogram: Histogram without labels, or with its labels set.
        value: Value in the histogram's unit.
    """
    histogram.observe(value, tracing.exemplar())


def exposition(accept: str) -> tuple[bytes, str]:
    """Return all metrics of this process and their content type.

    Args:
        accept: Accept header of the reader. Exemplars are in the OpenMetrics format only, which
            Prometheus asks for.
    """
    if "application/openmetrics-text" not in accept:
        return generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4
    # The library's own choice would write the colon of vLLM's names as an underscore for readers
    # without UTF-8 names, such as Prometheus 2. All names here are valid for them.
    encode: Any = openmetrics.generate_latest
    return encode(REGISTRY, openmetrics.ALLOWUTF8), openmetrics.CONTENT_TYPE_LATEST


def metrics_app(
    environ: Mapping[str, Any], respond: Callable[[str, list[tuple[str, str]]], object]
) -> list[bytes]:
    """Serve the metrics of this process by WSGI, at any path."""
    page, content_type = exposition(environ.get("HTTP_ACCEPT", ""))
    respond("200 OK", [("Content-Type", content_type)])
    return [page]


class MetricsPage:
    """HTTP page ``/metrics`` of one process, served by its own thread.

    Args:
        address: ``host:port``; port 0 takes a free port, see ``port``.
    """

    def __init__(self, address: str) -> None:
        host, port = tcp_endpoint(address)
        server, thread = start_http_server(port, addr=host)
        server.set_app(metrics_app)
        self._server: WSGIServer = server
        self._thread: Thread = thread
        self.port: int = server.server_port

    def close(self) -> None:
        """Stop the HTTP server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class MetricsServicer(rpc.MetricsServiceServicer):
    """Serves the metrics page over gRPC, for a process without a network port."""

    async def Scrape(
        self,
        request: pb.ScrapeRequest,
        context: grpc.aio.ServicerContext[pb.ScrapeRequest, pb.ScrapeResponse],  # noqa: ARG002
    ) -> pb.ScrapeResponse:
        """Return all metrics of this process."""
        page, content_type = exposition(request.accept)
        return pb.ScrapeResponse(exposition=page, content_type=content_type)
