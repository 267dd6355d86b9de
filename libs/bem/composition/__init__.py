"""Adapter composition: orthogonal slices of a layer's output space, one for each mission."""

from bem.composition.compose import compose
from bem.composition.composer import ComposedAdapters, Composer, CompositionSettings
from bem.composition.subspaces import (
    allocate_slices,
    column_span,
    largest_cosine,
    project,
    successive_slices,
)

__all__ = [
    "ComposedAdapters",
    "Composer",
    "CompositionSettings",
    "allocate_slices",
    "column_span",
    "compose",
    "largest_cosine",
    "project",
    "successive_slices",
]
