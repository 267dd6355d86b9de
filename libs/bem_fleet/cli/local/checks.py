"""Preconditions of the local fleet; each error says what to do."""

import os
import shutil
import socket
from collections.abc import Mapping
from importlib import import_module

from fleet.settings import unknown_variables, variable_names

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan

_MIN_FREE_BYTES = 2 * 1024**3
# Variables of benchmarks and of the cluster's tools, which are no settings of a service.
_TOOL_PREFIXES = ("BEM_CLUSTER_", "BEM_IMAGES_", "BEM_SERVICE", "BEM_WEIGHTS")


class NotReadyToStartError(Exception):
    """The machine cannot run the fleet as it is; the message says what to do."""


def check(plan: Plan) -> None:
    """Check that all ports are free and that the disk has room.

    Raises:
        NotReadyToStartError: Ports are in use, all of them named, or the disk is full.
    """
    busy = {variable: port for variable, port in plan.ports.items() if _in_use(port)}
    if busy:
        named = ", ".join(str(port) for port in busy.values())
        settings = " ".join(f"{variable}={port + 1000}" for variable, port in busy.items())
        raise NotReadyToStartError(
            f"ports in use by another program: {named}; stop it, or choose other ports: "
            f"`make up {settings}`"
        )
    free = shutil.disk_usage(ROOT).free
    if free < _MIN_FREE_BYTES:
        raise NotReadyToStartError(
            f"{free / 1024**3:.1f} GiB of disk are free; the model's cache, logs and Redis need "
            f"{_MIN_FREE_BYTES / 1024**3:.0f} GiB: free some"
        )


def unknown_settings(plan: Plan, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each environment variable that looks like a setting and is none.

    Args:
        plan: Plan of the fleet; its services' settings are known.
        environment: Environment variables.
    """
    known = []
    for one in plan.services:
        settings = import_module(f"bem_fleet.services.{one.name}.settings")
        known += variable_names(getattr(settings, f"{one.name.capitalize()}Settings"))
    meant = [name for name in environment if not name.startswith(_TOOL_PREFIXES)]
    return [
        f"{name} is no setting and has no effect; the nearest is {nearest}"
        for name, nearest in unknown_variables(meant, known).items()
    ]


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
