"""Overload benchmark: an open-loop load above the saturation rate of a fleet with a canary."""
