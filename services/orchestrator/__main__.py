"""Orchestrator service: GPU assignment, canary rollouts and traffic routes of all missions."""

from bem_fleet.services.orchestrator.build import build
from bem_fleet.services.orchestrator.servicer import STATUS
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.server import serve

if __name__ == "__main__":
    serve(OrchestratorSettings, build, STATUS)
