"""Sequence packing: short sequences share a row, so that no step computes padding.

Example:
    Sequences of 5, 30, 4, 6 and 1 tokens and rows of 10 tokens. First-fit decreasing takes them
    longest first, each into the first row with room::

        30   does not fit any row; it gets a row of its own      [30]
        6    opens a row, 4 tokens left                          [30] [6]
        5    opens a row, 5 tokens left                          [30] [6] [5]
        4    fits the second row                                 [30] [6 4] [5]
        1    second row is full; fits the third                  [30] [6 4] [5 1]

    ``assign_rows`` returns the indices, ``[[1], [3, 2], [0, 4]]``: 46 tokens in three rows without
    padding, where padding all five to 30 tokens would compute 150.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.training.activation_cache import IGNORED_LABEL, EncodedExample


@dataclass(frozen=True)
class PackedRow:
    """Sequences that lie one behind the other in one row.

    Attributes:
        states: Input of the first layer with sites, ``[T, F]``, or ``[T]`` int64 token ids.
        lengths: Number of tokens of each of the S sequences, T in total.
        features: ``[S, F]`` float32, input of the controller.
        positions: ``[N]`` flat positions whose next token belongs to a reply.
        labels: ``[N]`` int64, these next tokens.
        starts: First token of each sequence that runs with the adapter.
        prefixes: Keys and values before each sequence; empty if no sequence has them.
    """

    states: Tensor
    lengths: tuple[int, ...]
    features: Tensor
    positions: Tensor
    labels: Tensor
    starts: tuple[int, ...] = ()
    prefixes: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> "PackedRow":
        """Return the row on ``device``."""
        return PackedRow(
            states=self.states.to(device),
            lengths=self.lengths,
            features=self.features.to(device),
            positions=self.positions.to(device),
            labels=self.labels.to(device),
            starts=self.starts,
            prefixes=tuple(one.to(device) for one in self.prefixes),
        )


def pack_row(examples: Sequence[EncodedExample]) -> PackedRow:
    """Concatenate examples to one row."""
    labels = torch.cat([example.labels for example in examples])
    positions = (labels != IGNORED_LABEL).nonzero().squeeze(1)
    prefixes = [example.prefix for example in examples if example.prefix is not None]
    if prefixes and len(prefixes) < len(examples):
        none = prefixes[0][:, :0]
        prefixes = [none if one.prefix is None else one.prefix for one in examples]
    return PackedRow(
        states=torch.cat([example.hidden for example in examples]),
        lengths=tuple(len(example.labels) for example in examples),
        features=torch.stack([example.feature for example in examples]),
        positions=positions,
        labels=labels[positions],
        starts=tuple(example.start for example in examples),
        prefixes=tuple(prefixes),
    )


def assign_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Distribute sequences over few rows by first-fit decreasing.

    It needs at most 11/9 of the smallest possible number of rows, plus one (Johnson 1973).

    Args:
        lengths: Number of tokens of each sequence.
        row_tokens: Largest number of tokens of a row; a longer sequence gets its own row.

    Returns:
        Indices into ``lengths`` by row; each occurs exactly once.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    # Ties are broken by index, so that the same batch is always packed alike.
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, left in enumerate(room) if lengths[index] <= left), None)
        if row is None:
            rows.append([])
            room.append(row_tokens)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows
