"""Trains, calibrates and judges the sidecar: ``python -m bem_fleet.studies.guard train``."""
