"""Training recipe of the safety adapter."""
