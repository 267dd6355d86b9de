"""Safety sidecar process: ``python -m bem_fleet.services.safety``."""

from bem_fleet.services.safety.build import build
from bem_fleet.services.safety.servicer import STATUS
from bem_fleet.services.safety.settings import SafetySettings
from fleet.server import serve

if __name__ == "__main__":
    serve(SafetySettings, build, STATUS)
