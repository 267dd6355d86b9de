"""Command line of the fleet: ``fleetctl`` and the kubectl plug-in ``kubectl bem``."""

from bem_fleet.cli.fleetctl import main

__all__ = ["main"]
