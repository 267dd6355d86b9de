"""Serving of the base model by a mission: settings, engine host and error codes.

A mission that generates text needs a proto, a servicer and these building blocks;
``tools/new_mission.py`` lays such a mission down.
"""

from bem_fleet.serving.build import build_mission
from bem_fleet.serving.engine_host import EngineHost, GeneratedText, HostHolder, load_host
from bem_fleet.serving.settings import EngineSettings
from bem_fleet.serving.status import STATUS

__all__ = [
    "STATUS",
    "EngineHost",
    "EngineSettings",
    "GeneratedText",
    "HostHolder",
    "build_mission",
    "load_host",
]
