"""Trust region: a bound on the norm of the summed weight updates of a layer."""

from bem.trust_region.norms import (
    LowRankDelta,
    check_radius,
    frobenius_norm,
    gram_product,
    largest_factor,
    spectral_norm,
    trust_region_scale,
)

__all__ = [
    "LowRankDelta",
    "check_radius",
    "frobenius_norm",
    "gram_product",
    "largest_factor",
    "spectral_norm",
    "trust_region_scale",
]
