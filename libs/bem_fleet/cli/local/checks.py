"""Preconditions of the local fleet; each error says what to do."""

import shutil
import socket

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan

_MIN_FREE_BYTES = 2 * 1024**3


class NotReadyToStartError(Exception):
    """The machine cannot run the fleet as it is; the message says what to do."""


def check(plan: Plan) -> None:
    """Check that all ports are free and that the disk has room.

    Raises:
        NotReadyToStartError: A port is in use or the disk is full.
    """
    for variable, port in plan.ports.items():
        if _in_use(port):
            raise NotReadyToStartError(
                f"port {port} is in use by another program; stop it, or choose another port: "
                f"`make up {variable}={port + 1000}`"
            )
    free = shutil.disk_usage(ROOT).free
    if free < _MIN_FREE_BYTES:
        raise NotReadyToStartError(
            f"{free / 1024**3:.1f} GiB of disk are free; the model's cache, logs and Redis need "
            f"{_MIN_FREE_BYTES / 1024**3:.0f} GiB: free some"
        )


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
