"""Validation service: comparisons, false discovery rate, acceptance gates and canary analysis."""

from bem_fleet.services.validation.build import build
from bem_fleet.services.validation.servicer import STATUS
from bem_fleet.services.validation.settings import ValidationSettings
from fleet.server import serve

if __name__ == "__main__":
    serve(ValidationSettings, build, STATUS)
