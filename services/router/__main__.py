"""Router service: answers with the base model and its skills (Mission A)."""

from fleet.server import serve

from services.router.build import build
from services.router.servicer import STATUS
from services.router.settings import RouterSettings

if __name__ == "__main__":
    serve(RouterSettings, build, STATUS)
