"""HTTP server of the gateway: uvicorn with limits, TLS and certificate reloading."""

import socket
from functools import partial
from typing import Any, cast

import uvicorn
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.certificate import CERTIFICATE, KEY, CertificateReloader
from bem_fleet.services.gateway.http_protocol import BoundedHttpProtocol, ConnectionLimits
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.listening import tcp_endpoint
from starlette.types import ASGIApp


def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM, with TLS if the settings name a certificate.

    Raises:
        FileNotFoundError: The certificate or its key is missing.
    """
    app = make_app(settings)
    config = make_config(settings, app)
    config.load()
    reloader = (
        CertificateReloader(config.ssl, settings.tls) if settings.tls and config.ssl else None
    )
    listener = config.bind_socket()
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    server = uvicorn.Server(config)
    app.state.is_stopping = lambda: server.should_exit  # streams of /v1/fleet/events end then
    server.run(sockets=[listener])
    if reloader:
        reloader.close()


def make_config(settings: GatewaySettings, app: ASGIApp) -> uvicorn.Config:
    """Return uvicorn's configuration with the gateway's limits of connections."""
    host, port = tcp_endpoint(settings.address)
    limits = ConnectionLimits(
        connections=settings.max_connections,
        header_bytes=settings.max_header_bytes,
        header_s=settings.header_timeout_s,
        body_s=settings.body_timeout_s,
        stalled_s=settings.stalled_reader_s,
    )
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=cast("type[BoundedHttpProtocol]", partial(BoundedHttpProtocol, limits)),
        ws="none",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.drain_s),
        **_tls(settings),
    )


def _tls(settings: GatewaySettings) -> dict[str, Any]:
    if settings.tls is None:
        return {}
    return {"ssl_certfile": settings.tls / CERTIFICATE, "ssl_keyfile": settings.tls / KEY}
