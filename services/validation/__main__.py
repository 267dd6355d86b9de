"""Validation service: whether what a mission claims is true."""

from fleet.server import serve

from services.validation.build import build
from services.validation.servicer import STATUS
from services.validation.settings import ValidationSettings

if __name__ == "__main__":
    serve(ValidationSettings, build, STATUS)
