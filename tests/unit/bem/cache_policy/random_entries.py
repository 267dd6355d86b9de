"""Random entries of a layer."""

import torch
from bem.cache_policy import Entries


def random_entries(
    count: int = 20, observed: int = 6, heads: int = 2, group: int = 3, seed: int = 0
) -> Entries:
    """Return entries of ``count`` positions with the queries of the last ``observed``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, count, 8), (heads, count, 8), (group * heads, observed, 8))
    return Entries(*(torch.randn(shape, generator=generator) for shape in shapes))
