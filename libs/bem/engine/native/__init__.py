"""Compiled kernels: packed matrices, and whole decoder layers in one call."""

from bem.engine.native.build import Choice, Wanted, choose
from bem.engine.native.layers import NativeLayers
from bem.engine.native.library import Library, PackedLinear

__all__ = ["Choice", "Library", "NativeLayers", "PackedLinear", "Wanted", "choose"]
