"""Training and calibration of the classifier heads: ``python -m bem_fleet.guard.training``."""
