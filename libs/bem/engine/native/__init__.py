"""Compiled CPU kernels: packed matrices, and decoder layers in one call."""

from bem.engine.native.build import KernelChoice, KernelPreference, select_kernels
from bem.engine.native.layers import NativeLayers
from bem.engine.native.library import Library, PackedLinear

__all__ = [
    "KernelChoice",
    "KernelPreference",
    "Library",
    "NativeLayers",
    "PackedLinear",
    "select_kernels",
]
