"""Measures of the engine benchmark: each module has ``TARGETS`` and ``run(rounds)``."""
