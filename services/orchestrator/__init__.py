"""Control service: Mission resources, GPU assignment, canaries, the integration graph."""
