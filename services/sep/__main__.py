"""Sep mission: surface-robust answers and embeddings."""

from bem_fleet.services.sep.build import build
from bem_fleet.services.sep.servicer import STATUS
from bem_fleet.services.sep.settings import SepSettings
from fleet.server import serve

if __name__ == "__main__":
    serve(SepSettings, build, STATUS)
