"""Gateway process: OpenAI-compatible HTTP API in front of the missions."""

from bem_fleet.services.gateway.http_server import serve
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet import logs

if __name__ == "__main__":
    settings = GatewaySettings()
    logs.setup(settings.log_level)
    serve(settings)
