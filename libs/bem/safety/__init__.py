"""The safety basis: reserved directions, the adapter in them, the value head that scales it."""

from bem.safety.artifact import SafetyArtifact, SafetyCard, read_safety, save_safety
from bem.safety.basis import basis_size, orthogonality, project_out, reserve, slices_outside
from bem.safety.lagrangian import Multipliers
from bem.safety.overlay import SafetyOverlay
from bem.safety.value import ValueHead

__all__ = [
    "Multipliers",
    "SafetyArtifact",
    "SafetyCard",
    "SafetyOverlay",
    "ValueHead",
    "basis_size",
    "orthogonality",
    "project_out",
    "read_safety",
    "reserve",
    "save_safety",
    "slices_outside",
]
