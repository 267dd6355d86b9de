"""Whether freshly loaded kernels compute what they should: torch does the same beside them."""

import torch

from bem.engine.native.library import Library, PackedLinear

# Of 8-bit inputs beside exact ones; a wrong lane or order is off by a whole.
_TOLERANCE = 0.01
_ROWS, _SHAPE = 19, (40, 96)


def mistakes(library: Library) -> str:
    """Return what is wrong with products of both kinds, an empty text if nothing is."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*_SHAPE, generator=generator)
    x = torch.randn(_ROWS, _SHAPE[1], generator=generator)
    for bits in (4, 8):
        product = PackedLinear(library, weight, bits=bits)
        wanted = x @ product.unpacked().T
        found = product(x)
        error = float((found - wanted).norm() / wanted.norm())
        if not error < _TOLERANCE:
            return f"{bits} bits are off by {error:.3g}"
        if not torch.equal(product(x[3:4]), found[3:4]):
            return f"{bits} bits: a row depends on those beside it"
    return ""
