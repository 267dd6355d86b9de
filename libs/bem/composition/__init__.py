"""Orthogonal slices of the output space, one for each mission."""

from bem.composition.compose import compose
from bem.composition.subspaces import allocate, overlap, project

__all__ = ["allocate", "compose", "overlap", "project"]
