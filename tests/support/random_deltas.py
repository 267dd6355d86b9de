"""Random low-rank updates of one layer."""

import torch
from bem.trust_region import LowRankDelta


def deltas(seed: int, count: int, width: int = 24, rank: int = 3) -> list[LowRankDelta]:
    """Return random updates of one layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        LowRankDelta(draw(rank, width), draw(width, rank), draw(rank), scale=0.5)
        for _ in range(count)
    ]
