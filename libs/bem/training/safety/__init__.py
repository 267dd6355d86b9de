"""Lagrangian training of the safety adapter, and measurement of its refusals."""
