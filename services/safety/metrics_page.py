"""The sidecar's metrics page: its own at ``/metrics``, the mission's at ``/upstream/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from prometheus_client import make_wsgi_app

_TEXT = "text/fold_confusables; version=0.0.4; charset=utf-8"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Scrapes are not worth a line each."""


class SidecarMetricsServer:
    """Serves both pages from a thread.

    Args:
        address: ``host:port``; port 0 takes a free one.
        upstream: The mission's address: it has no network port, so it is scraped through here.
    """

    def __init__(self, address: str, upstream: str) -> None:
        host, _, port = address.rpartition(":")
        own = make_wsgi_app()
        channel = grpc.insecure_channel(upstream)
        stub = metrics_pb2_grpc.MetricsServiceStub(channel)

        def pages(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/upstream/metrics":
                answered: Iterable[bytes] = own(environ, respond)
                return answered
            try:
                answer = stub.Scrape(metrics_pb2.ScrapeRequest(), timeout=5)
            except grpc.RpcError:
                respond("503 Service Unavailable", [("Content-Type", _TEXT)])
                return [b"the mission cannot be reached\n"]
            respond("200 OK", [("Content-Type", _TEXT)])
            return [answer.exposition]

        self._channel = channel
        self._server = make_server(host, int(port), pages, _Server, _Quiet)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    async def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._channel.close()
