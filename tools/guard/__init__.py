"""Trains, calibrates and judges the sidecar: ``python -m tools.guard train``."""
