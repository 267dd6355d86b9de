"""Orthogonal slices of the output space, one for each mission."""
