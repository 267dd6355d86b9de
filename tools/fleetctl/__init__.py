"""The fleet's own command: ``fleetctl gates --phase 1``."""

from tools.fleetctl.cli import main

__all__ = ["main"]
