"""Training of skills: data, steps, checkpoints and evaluation."""
