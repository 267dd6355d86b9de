"""Entries of one layer's KV cache, and the attention that they get from the layer's queries."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_CHUNK = 256
"""Queries whose attention is computed at once; it bounds the memory of long prompts."""


@dataclass(frozen=True)
class Entries:
    """Keys and values of one layer and the queries of its last tokens.

    Keys and queries are rotated by the positions that their tokens have in the text (RoPE as
    cached). An entry therefore keeps its angle wherever it is stored.

    Attributes:
        keys: ``[H, N, D]`` for H KV heads and N positions.
        values: ``[H, N, D]``.
        queries: ``[G * H, W, D]`` of the last W positions, for G query heads that share a KV head;
            W is 0 where no query is known.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor

    @property
    def count(self) -> int:
        """Number of positions N."""
        return self.keys.shape[1]

    @property
    def observed(self) -> int:
        """Number of queries W."""
        return self.queries.shape[1]

    def last_queries(self, count: int) -> "Entries":
        """Return the same entries with the last ``count`` queries."""
        return Entries(self.keys, self.values, self.queries[:, self.observed - count :])

    def attention(self, chunk: int = QUERY_CHUNK) -> Iterator[Tensor]:
        """Yield causal attention probabilities, summed over the query heads that share a KV head.

        Args:
            chunk: Queries of one part.

        Yields:
            ``[H, C, N]`` float32 for the next C queries; a row sums to G.
        """
        heads, count, width = self.keys.shape
        first = count - self.observed  # position of the first query
        keys = self.keys.float().transpose(1, 2).unsqueeze(1)  # [H, 1, D, N]
        grouped = self.queries.view(heads, -1, self.observed, width)
        columns = torch.arange(count, device=self.keys.device)
        for begin in range(0, self.observed, chunk):
            part = grouped[:, :, begin : begin + chunk].float()  # [H, G, C, D]
            logits = part @ keys / width**0.5
            rows = first + begin + torch.arange(part.shape[2], device=columns.device)
            logits = logits.masked_fill(columns > rows[:, None], float("-inf"))
            yield logits.softmax(-1).sum(1)


def attention_mass(entries: Entries) -> Tensor:
    """Return the attention that each entry gets from all queries together.

    Args:
        entries: Entries with at least one query.

    Returns:
        ``[H, N]`` float32; a head's values sum to G x W.
    """
    total = entries.keys.new_zeros(entries.keys.shape[:2], dtype=torch.float32)
    for part in entries.attention():
        total += part.sum(1)
    return total
