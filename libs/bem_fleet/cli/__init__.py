"""The fleet's own command: ``fleetctl gates --phase 1``."""

from bem_fleet.cli.fleetctl import main

__all__ = ["main"]
