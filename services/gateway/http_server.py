"""HTTP server of the gateway: uvicorn, with TLS and certificate reloading."""

from typing import Any

import uvicorn
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.certificate import CERTIFICATE, KEY, CertificateReloader
from bem_fleet.services.gateway.settings import GatewaySettings


def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM, with TLS if the settings name a certificate.

    Raises:
        FileNotFoundError: The certificate or its key is missing.
    """
    host, _, port = settings.address.rpartition(":")
    config = uvicorn.Config(
        make_app(settings),
        host=host,
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.drain_s),
        **_tls(settings),
    )
    config.load()
    reloader = (
        CertificateReloader(config.ssl, settings.tls) if settings.tls and config.ssl else None
    )
    uvicorn.Server(config).run()
    if reloader:
        reloader.close()


def _tls(settings: GatewaySettings) -> dict[str, Any]:
    if settings.tls is None:
        return {}
    return {"ssl_certfile": settings.tls / CERTIFICATE, "ssl_keyfile": settings.tls / KEY}
