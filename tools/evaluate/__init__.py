"""Evaluation of what runs: the sides of a comparison answer over the wire."""
