"""What is measured: each module has ``NAME``, ``TARGETS`` and ``run(rounds) -> Found``."""
