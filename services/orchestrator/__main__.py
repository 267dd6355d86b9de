"""Orchestrator: which mission runs where, and which canary lives."""

from fleet.server import serve

from services.orchestrator.build import build
from services.orchestrator.servicer import STATUS
from services.orchestrator.settings import OrchestratorSettings

if __name__ == "__main__":
    serve(OrchestratorSettings, build, STATUS)
