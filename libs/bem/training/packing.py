"""Short sequences packed one behind the other, so that no step computes a pad."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.training.features import Example


@dataclass(frozen=True)
class Packed:
    """Sequences of one row.

    Attributes:
        states: ``[T, F]`` input of the first layer with sites, or ``[T]`` int64 token ids.
        lengths: Tokens of each of the S sequences, T in all.
        features: ``[S, F]`` float32, what the controller reads.
        wanted: ``[N]`` places whose next token is part of a reply.
        labels: ``[N]`` these tokens.
    """

    states: Tensor
    lengths: tuple[int, ...]
    features: Tensor
    wanted: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Packed":
        """Return it on ``device``."""
        moved = (t.to(device) for t in (self.states, self.features, self.wanted, self.labels))
        states, features, wanted, labels = moved
        return Packed(states, self.lengths, features, wanted, labels)


def pack(examples: Sequence[Example]) -> Packed:
    """Lay examples one behind the other."""
    labels = torch.cat([example.labels for example in examples])
    wanted = (labels != -100).nonzero().squeeze(1)
    return Packed(
        states=torch.cat([example.hidden for example in examples]),
        lengths=tuple(len(example.labels) for example in examples),
        features=torch.stack([example.feature for example in examples]),
        wanted=wanted,
        labels=labels[wanted],
    )


def fill_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Share sequences out over few rows, longest first into the first row with room.

    First-fit decreasing needs at most 11/9 of the fewest possible rows, and one (Johnson 1973).

    Args:
        lengths: Tokens of each sequence.
        row_tokens: Most tokens of a row; a longer sequence gets a row of its own.

    Returns:
        Indices into ``lengths``, by row; each exactly once.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((r for r, left in enumerate(room) if lengths[index] <= left), None)
        if place is None:
            rows.append([])
            room.append(row_tokens)
            place = len(rows) - 1
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows
