"""Safety model: reserved subspace, the safety adapter in it, and the value head that scales it."""

from bem.safety.artifact import SafetyArtifact, SafetyCard, read_safety, save_safety
from bem.safety.basis import (
    basis_size,
    orthogonality,
    project_out,
    reserve_basis,
    slices_outside,
)
from bem.safety.lagrangian import LagrangeMultipliers
from bem.safety.overlay import SafetyOverlay
from bem.safety.value_head import ValueHead

__all__ = [
    "LagrangeMultipliers",
    "SafetyArtifact",
    "SafetyCard",
    "SafetyOverlay",
    "ValueHead",
    "basis_size",
    "orthogonality",
    "project_out",
    "read_safety",
    "reserve_basis",
    "save_safety",
    "slices_outside",
]
