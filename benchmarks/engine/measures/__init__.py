"""What is measured: each module has ``TARGETS`` and ``run(rounds) -> Measurement``."""
