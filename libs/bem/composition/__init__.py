"""Adapter composition: orthogonal slices of a layer's output space, one for each mission."""

from bem.composition.compose import compose
from bem.composition.subspaces import allocate_slices, largest_cosine, project

__all__ = ["allocate_slices", "compose", "largest_cosine", "project"]
