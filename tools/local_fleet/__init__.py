"""The fleet on one machine: ``python -m tools.local_fleet up|down|status|logs``."""
