"""Alignment of tokens between a text and its scramble, by the last token of each word.

A scramble's record says at which offsets its words end in both texts
(``bem_fleet.data.scrambles``); a tokenizer says where its tokens end. The state at the last token
of a word has read all of the word in both views, however many tokens it takes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenAlignment:
    """Pairs of tokens at which a text and its scramble have read the same word.

    Attributes:
        clean: ``[N]`` int64 places in the clean text's tokens.
        scrambled: ``[N]`` int64 places in the scrambled text's tokens.
    """

    clean: Tensor
    scrambled: Tensor

    def pair_states(self, clean: Tensor, scrambled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the aligned states, ``[T, F]`` and ``[U, F]`` to twice ``[1, N, F]``."""
        return clean[self.clean].unsqueeze(0), scrambled[self.scrambled].unsqueeze(0)


def align_tokens(
    ends: Iterable[tuple[int, int]],
    clean_spans: Sequence[tuple[int, int]],
    scrambled_spans: Sequence[tuple[int, int]],
) -> TokenAlignment:
    """Return the alignment of the words that end with a token in both views.

    A word without a token that ends where it ends, such as one that shares a token with the
    punctuation after it, is left out.

    Args:
        ends: Offsets after each word in the clean and in the scrambled text, characters.
        clean_spans: Offsets of each token of the clean text; empty spans are control tokens.
        scrambled_spans: Offsets of each token of the scrambled text.
    """
    clean, scrambled = _last_tokens(clean_spans), _last_tokens(scrambled_spans)
    pairs = sorted({
        (clean[left], scrambled[right])
        for left, right in ends
        if left in clean and right in scrambled
    })  # fmt: skip
    places = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return TokenAlignment(places[:, 0], places[:, 1])


def _last_tokens(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the last token that ends at each offset."""
    return {end: place for place, (start, end) in enumerate(spans) if end > start}
