"""Trust region: a bound on the norm of the summed weight updates of a layer."""

from bem.trust_region.norms import (
    LowRankDelta,
    frobenius_norm,
    spectral_norm,
    trust_region_scale,
)

__all__ = ["LowRankDelta", "frobenius_norm", "spectral_norm", "trust_region_scale"]
