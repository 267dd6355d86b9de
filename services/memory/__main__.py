"""Memory mission: documents in constant bytes, with citations."""

from bem_fleet.services.memory.build import build
from bem_fleet.services.memory.servicer import STATUS
from bem_fleet.services.memory.settings import MemorySettings
from fleet.server import serve

if __name__ == "__main__":
    serve(MemorySettings, build, STATUS)
