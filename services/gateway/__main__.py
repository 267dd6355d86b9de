"""Gateway: the HTTP edge that OpenAI's clients already speak."""

from fleet import logs

from services.gateway.serving import serve
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    settings = GatewaySettings()
    logs.setup(settings.log_level)
    serve(settings)
