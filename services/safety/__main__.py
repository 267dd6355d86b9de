"""Safety sidecar: the only way into a mission, and the judge of all that leaves it (Mission C)."""

from fleet.server import serve

from services.safety.build import build
from services.safety.servicer import STATUS
from services.safety.settings import SafetySettings

if __name__ == "__main__":
    serve(SafetySettings, build, STATUS)
