"""Training of adapters: data, steps, checkpoints and evaluation."""
