"""Gateway: the HTTP edge that OpenAI's clients already speak."""

import uvicorn
from fleet import logs

from services.gateway.app import make_app
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    settings = GatewaySettings()
    logs.setup(settings.log_level)
    host, _, port = settings.address.rpartition(":")
    uvicorn.run(
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
    )
