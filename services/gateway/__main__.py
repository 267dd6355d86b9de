"""Gateway process: OpenAI-compatible HTTP API in front of the missions."""

from bem_fleet.services.gateway.http_server import serve
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet import logs
from fleet.server import report_unknown_variables

if __name__ == "__main__":
    settings = GatewaySettings()
    logs.setup(settings.log_level)
    report_unknown_variables(GatewaySettings)
    serve(settings)
