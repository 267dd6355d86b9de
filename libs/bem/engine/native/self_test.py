"""Self-test of compiled kernels: products beside those of torch on the same dequantised weights."""

import torch

from bem.engine.native.library import Library, PackedLinear

# Relative error of 8-bit inputs; a wrong lane or order is off by about 1.
_TOLERANCE = 0.01
_ROWS, _SHAPE = 19, (40, 96)


def self_test(library: Library) -> str:
    """Return what is wrong with products in 4 and 8 bits; an empty text if nothing is."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*_SHAPE, generator=generator)
    x = torch.randn(_ROWS, _SHAPE[1], generator=generator)
    for bits in (4, 8):
        layer = PackedLinear(library, weight, bits=bits)
        expected = x @ layer.dequantize().T
        actual = layer(x)
        error = float((actual - expected).norm() / expected.norm())
        if not error < _TOLERANCE:  # also true for NaN
            return f"{bits} bits: relative error {error:.3g}; the limit is {_TOLERANCE}"
        if not torch.equal(layer(x[3:4]), actual[3:4]):
            return f"{bits} bits: the result of a row depends on the other rows of its batch"
    return ""
