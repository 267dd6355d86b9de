"""The bound on the norm of the summed weight deltas."""

from bem.trust_region.norms import Delta, frobenius, limit, spectral

__all__ = ["Delta", "frobenius", "limit", "spectral"]
