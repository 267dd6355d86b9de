"""Continuous batching over one model owned by one thread."""
