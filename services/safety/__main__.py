"""Safety sidecar: the only way into a mission, and the judge of all that leaves it (Mission C)."""

from bem_fleet.services.safety.build import build
from bem_fleet.services.safety.servicer import STATUS
from bem_fleet.services.safety.settings import SafetySettings
from fleet.server import serve

if __name__ == "__main__":
    serve(SafetySettings, build, STATUS)
