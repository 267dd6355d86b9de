"""Bijective scrambles of token ids: the group of symbol permutations times position permutations.

An element has a permutation of the alphabet and a permutation of the positions for each sequence:

    (P x)[t] = symbols[x[positions[t]]]

Both factors commute, so that the elements are the direct product of two symmetric groups: closed
under ``then``, with ``inverse`` and identity. Any ids have an inverse from the element alone.

Equivariance. A symbol permutation of the input permutes the alphabet of a causal model's
predictions, ``f(P x)[t, symbols[v]] = f(x)[t, v]`` (``scramble_logits``); states keep their places.
A position permutation moves states (``scramble_states``), and a causal model predicts the next
token of another prefix: only pooled codes can be invariant, ``z(P x) = z(x)``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidSettingError


@dataclass(frozen=True, eq=False)
class Bijection:
    """Bijective scramble of a batch of sequences.

    Attributes:
        symbols: ``[B, V]`` int64, the image of each id; None for the identity.
        positions: ``[B, T]`` int64, the source position of each target position; None for the
            identity.
    """

    symbols: Tensor | None = None
    positions: Tensor | None = None

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the scrambled ids, ``[B, T]`` int64 to ``[B, T]``.

        Raises:
            InvalidSettingError: Rows, positions or ids are not those of the scramble.
        """
        self._validate(ids)
        if self.positions is not None:
            ids = ids.gather(1, self.positions)
        return ids if self.symbols is None else self.symbols.gather(1, ids)

    def then(self, other: "Bijection") -> "Bijection":
        """Return the scramble that applies this one first and ``other`` after it."""
        symbols, positions = self.symbols, self.positions
        if other.symbols is not None:
            symbols = other.symbols if symbols is None else other.symbols.gather(1, symbols)
        if other.positions is not None:
            positions = (
                other.positions if positions is None else positions.gather(1, other.positions)
            )
        return Bijection(symbols, positions)

    def inverse(self) -> "Bijection":
        """Return the scramble that undoes this one."""
        return Bijection(
            None if self.symbols is None else invert_permutations(self.symbols),
            None if self.positions is None else invert_permutations(self.positions),
        )

    def scramble_states(self, states: Tensor) -> Tensor:
        """Return states of the clean view at the places of the scrambled one, ``[B, T, F]``."""
        if self.positions is None:
            return states
        return states.gather(1, self.positions.unsqueeze(-1).expand_as(states))

    def scramble_logits(self, logits: Tensor) -> Tensor:
        """Return predictions of the clean view over the scrambled alphabet, ``[B, T, V]``.

        Positions are left as they are: no permutation of positions maps next-token predictions.
        """
        if self.symbols is None:
            return logits
        sources = invert_permutations(self.symbols).unsqueeze(1)
        return logits.gather(2, sources.expand_as(logits))

    def _validate(self, ids: Tensor) -> None:
        """Check the shape; ids beyond the alphabet fail in ``gather`` with a message of torch."""
        for name, table in (("symbols", self.symbols), ("positions", self.positions)):
            if table is not None and len(table) != len(ids):
                raise InvalidSettingError(
                    f"ids: {len(ids)} rows, but {name} has {len(table)}; draw the scramble anew"
                )
        if self.positions is not None and self.positions.shape != ids.shape:
            raise InvalidSettingError(
                f"ids: {ids.shape[1]} positions, but the scramble moves {self.positions.shape[1]}; "
                "draw the scramble anew"
            )


def invert_permutations(permutations: Tensor) -> Tensor:
    """Return the inverse of each row, ``[B, N]`` int64."""
    places = torch.arange(permutations.shape[1], device=permutations.device)
    return torch.empty_like(permutations).scatter_(1, permutations, places.expand_as(permutations))


def canonical_numbering(ids: Tensor) -> Tensor:
    """Return ids renumbered by first occurrence, ``[B, T]`` int64: ``b a b c`` becomes ``0 1 0 2``.

    The result is the same for every symbol permutation of the input, so that any model of it is
    invariant by construction (canonicalisation, arXiv 2211.06489).
    """
    rows, length = ids.shape
    alphabet = int(ids.max()) + 1 if ids.numel() else 0
    places = torch.arange(length, device=ids.device).expand(rows, length)
    first = torch.full((rows, alphabet), length, dtype=torch.int64, device=ids.device)
    first.scatter_reduce_(1, ids, places, reduce="amin")
    # An id is new where it stands first; its number is how many were new before.
    is_new = first.gather(1, ids) == places
    numbers = is_new.long().cumsum(1) - 1
    return numbers.gather(1, first.gather(1, ids))
