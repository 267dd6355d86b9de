"""Service of mission online."""

from bem_fleet.services.online.build import build
from bem_fleet.services.online.settings import OnlineSettings
from bem_fleet.serving import STATUS
from fleet.server import serve

if __name__ == "__main__":
    serve(OnlineSettings, build, STATUS)
