"""Entry point of the router service."""

from bem_fleet.services.router.build import build
from bem_fleet.services.router.servicer import STATUS
from bem_fleet.services.router.settings import RouterSettings
from fleet.server import serve

if __name__ == "__main__":
    serve(RouterSettings, build, STATUS)
