"""Metrics pages of the sidecar: its own at ``/metrics``, the mission's at ``/upstream/metrics``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from fleet.listening import tcp_endpoint
from fleet.metrics import metrics_app

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCRAPE_TIMEOUT_S = 5


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ThreadingServer6(_ThreadingServer):
    address_family = socket.AF_INET6


def _server_of(host: str) -> type[_ThreadingServer]:
    return _ThreadingServer6 if ":" in host else _ThreadingServer


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Scrapes are not logged."""


class SidecarMetricsServer:
    """HTTP server of both pages, in a thread of its own.

    Args:
        address: ``host:port``; port 0 selects a free one.
        upstream: Address of the mission; it has no network port, so it is scraped through gRPC.

    Attributes:
        port: Port of the server.
    """

    def __init__(self, address: str, upstream: str) -> None:
        host, port = tcp_endpoint(address)
        channel = grpc.insecure_channel(upstream)
        stub = metrics_pb2_grpc.MetricsServiceStub(channel)

        def serve_page(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/upstream/metrics":
                return metrics_app(environ, respond)
            try:
                asked = metrics_pb2.ScrapeRequest(accept=environ.get("HTTP_ACCEPT", ""))
                scraped = stub.Scrape(asked, timeout=_SCRAPE_TIMEOUT_S)
            except grpc.RpcError:
                respond("503 Service Unavailable", [("Content-Type", _CONTENT_TYPE)])
                return [b"the mission is not reachable\n"]
            respond("200 OK", [("Content-Type", scraped.content_type or _CONTENT_TYPE)])
            return [scraped.exposition]

        self._channel = channel
        self._server = make_server(host, port, serve_page, _server_of(host), _SilentHandler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    async def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._channel.close()
