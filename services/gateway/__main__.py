"""Gateway: the HTTP edge that OpenAI's clients already speak."""

from bem_fleet.services.gateway.serving import serve
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet import logs

if __name__ == "__main__":
    settings = GatewaySettings()
    logs.setup(settings.log_level)
    serve(settings)
