"""What must be true before anything is started; each failure says what to do."""

import shutil
import socket

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan

_CACHE_BYTES = 2 * 1024**3


class NotReadyToStartError(Exception):
    """The machine cannot run the fleet as it is; the text says what to do."""


def check(plan: Plan) -> None:
    """Look at ports and disk.

    Raises:
        NotReadyToStartError: A port is taken or the disk is full.
    """
    for variable, port in plan.ports.items():
        if _taken(port):
            raise NotReadyToStartError(
                f"port {port} is taken by another program; end it, or choose another port: "
                f"`make up {variable}={port + 1000}`"
            )
    free = shutil.disk_usage(ROOT).free
    if free < _CACHE_BYTES:
        raise NotReadyToStartError(
            f"{free / 1024**3:.1f} GiB of disk are free; the model's cache, logs and Redis need "
            f"{_CACHE_BYTES / 1024**3:.0f} GiB: free some"
        )


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
