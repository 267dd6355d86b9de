"""Recipes, studies and benchmarks by name, each a module that runs in a process of its own.

``fleetctl train``, ``evaluate``, ``study`` and ``bench`` pass all further arguments on, so that a
recipe's options are stated once, in the recipe.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from bem_fleet.checkout import ROOT

OWN_DATA = "own-data"
"""Recipe that ``fleetctl train --data`` and ``fleetctl evaluate --data`` mean."""

RECIPES: Mapping[str, tuple[str, ...]] = {
    "passage-qa": ("bem_fleet.recipes.passage_qa", "train"),
    "safety": ("bem_fleet.recipes.safety",),
    "guard-encoder": ("bem_fleet.recipes.guard",),
    "guard": ("bem_fleet.guard.training",),
    "memory": ("bem_fleet.recipes.memory",),
    "sep": ("bem_fleet.recipes.sep",),
    "sep-front": ("bem_fleet.recipes.sep_front",),
    "sep-embedding": ("bem_fleet.recipes.sep_embedding",),
    "cache-policy": ("bem_fleet.recipes.cache_policy",),
    "router": ("bem_fleet.recipes.router",),
    "online": ("bem_fleet.recipes.online", "train"),
    "own-data": ("bem_fleet.recipes.own_data", "train"),
}
"""Module and leading arguments that train something, by name."""

EVALUATIONS: Mapping[str, tuple[str, ...]] = {
    "passage-qa": ("bem_fleet.recipes.passage_qa", "evaluate"),
    "own-data": ("bem_fleet.recipes.own_data", "evaluate"),
    "fleet": ("bem_fleet.studies.fleet_comparison",),
}
"""Module and leading arguments that evaluate an adapter, by name."""

STUDIES: Mapping[str, tuple[str, ...]] = {
    "cache-policy": ("bem_fleet.studies.cache_policy",),
    "compatibility": ("bem_fleet.studies.compatibility",),
    "guard": ("bem_fleet.studies.guard",),
    "memory": ("bem_fleet.studies.memory",),
    "online": ("bem_fleet.studies.online",),
    "router": ("bem_fleet.studies.router",),
    "router-ablations": ("bem_fleet.studies.router.plan_ablations",),
    "safety": ("bem_fleet.studies.safety",),
}
"""Module of each study, by name."""

BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    name: (f"benchmarks.{name.replace('-', '_')}",)
    for name in (
        *("bootstrap", "coverage", "engine", "feedback-intake", "gates", "guard", "isolation"),
        *("orchestrator", "overhead", "pipeline", "process", "replicas", "training-curves"),
        "training-step",
    )
}
"""Module of each benchmark, by name."""


def run_experiment(known: Mapping[str, tuple[str, ...]], name: str, options: Sequence[str]) -> int:
    """Run a recipe or a study and return its exit code.

    Args:
        known: Modules and leading arguments by name.
        name: One of the names, or the first option of the recipe of people's own data.
        options: Arguments for the module.

    Raises:
        BadParameter: There is no such name.
    """
    folder = ROOT
    if name.startswith("-") and OWN_DATA in known:
        name, options = OWN_DATA, [name, *options]
    if name == OWN_DATA:  # its files are the caller's
        folder = Path.cwd()
    if name not in known:
        raise typer.BadParameter(f"name: {name!r} is unknown; choose one of {', '.join(known)}")
    module, *leading = known[name]
    command = [sys.executable, "-m", module, *leading, *options]
    return subprocess.run(command, cwd=folder, check=False).returncode
