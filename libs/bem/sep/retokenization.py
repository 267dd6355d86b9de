"""Random splits of tokens into two tokens with the same text (StochasTok, arXiv 2506.01687).

The scramble acts after tokenising and needs no merges, so that it suits any vocabulary. The text
of the ids is invariant, ``decode(P x) = decode(x)``, which is the inverse: tokenise the text again,
or join what the record names (``merge``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bem.errors import InvalidSettingError

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Retokenized:
    """Ids after random splits.

    Attributes:
        ids: ``[N]`` new ids.
        origins: ``[N]`` place of the original token of each new one, ascending.
    """

    ids: Ids
    origins: Ids

    def last_places(self) -> Ids:
        """Return the place of the last part of each original token, ``[T]``, for alignment."""
        return np.flatnonzero(np.diff(self.origins, append=self.origins[-1:] + 1))


class SplitTable:
    """All splits of each token of a vocabulary into two tokens.

    Args:
        vocabulary: Text of each id as the tokenizer spells it; empty for control tokens, which are
            neither split nor made.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        places = {text: place for place, text in enumerate(vocabulary) if text}
        pairs: list[tuple[int, int]] = []
        counts = np.zeros(len(vocabulary), np.int64)
        for place, text in enumerate(vocabulary):
            if places.get(text) != place:
                continue
            for at in range(1, len(text)):
                left, right = places.get(text[:at]), places.get(text[at:])
                if left is not None and right is not None:
                    pairs.append((left, right))
                    counts[place] += 1
        self._pairs = np.array(pairs, np.int64).reshape(-1, 2)
        self._counts = counts
        self._starts = counts.cumsum() - counts
        self._merged = {
            (int(left), int(right)): place
            for place in np.flatnonzero(counts)
            for left, right in self._pairs[self._starts[place] :][: counts[place]]
        }

    def split(self, ids: Ids, rate: float, rng: np.random.Generator) -> Retokenized:
        """Return the ids with each token that has a split replaced with probability ``rate``.

        Args:
            ids: ``[T]`` ids.
            rate: Probability in [0, 1].
            rng: Source of randomness.

        Raises:
            InvalidSettingError: The rate is outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise InvalidSettingError(f"rate: {rate}; it lies in [0, 1]")
        counts = self._counts[ids]
        is_split = (counts > 0) & (rng.random(len(ids)) < rate)
        choice = (rng.random(len(ids)) * counts).astype(np.int64)
        origins = np.repeat(np.arange(len(ids)), 1 + is_split)
        out = ids[origins]
        # The first part of a split token stands right before its second part.
        seconds = np.flatnonzero(origins[1:] == origins[:-1]) + 1
        parts = self._pairs[(self._starts[ids] + choice)[is_split]]
        out[seconds - 1], out[seconds] = parts[:, 0], parts[:, 1]
        return Retokenized(out, origins)

    def merge(self, retokenized: Retokenized) -> Ids:
        """Return the ids before ``split``, ``[T]``."""
        ids, origins = retokenized.ids, retokenized.origins
        merged = ids[np.flatnonzero(np.diff(origins, prepend=-1))]
        for second in np.flatnonzero(origins[1:] == origins[:-1]) + 1:
            merged[origins[second]] = self._merged[int(ids[second - 1]), int(ids[second])]
        return merged
