"""Tokens are aligned where both views end a word."""

import torch
from bem.sep.token_alignment import align_tokens

CLEAN = [(0, 0), (0, 2), (2, 6), (6, 7)]  # "my dogs!" without its space: control, my, dogs, !
SCRAMBLED = [(0, 0), (0, 2), (2, 4), (4, 6), (6, 9)]  # "do gs my!": dogs in two tokens, then my!


def test_words_are_aligned_by_their_last_token() -> None:
    """A word in two tokens is aligned by the second; one that shares a token is left out."""
    alignment = align_tokens([(2, 8), (6, 4)], CLEAN, SCRAMBLED)
    clean, scrambled = alignment.pair_states(torch.arange(8.0).view(4, 2), torch.ones(5, 2))

    assert alignment.clean.tolist() == [2]
    assert alignment.scrambled.tolist() == [2]
    assert clean.tolist() == [[[4.0, 5.0]]]
    assert scrambled.shape == (1, 1, 2)


def test_nothing_in_common_is_an_empty_alignment() -> None:
    """Control tokens end nothing, and no word gives no pair."""
    alignment = align_tokens([(0, 0)], CLEAN, SCRAMBLED)

    assert alignment.clean.shape == alignment.scrambled.shape == (0,)


def test_identity_aligns_every_word() -> None:
    """A text with itself is aligned at all of its tokens."""
    ends = [(end, end) for start, end in CLEAN if end > start]

    assert align_tokens(ends, CLEAN, CLEAN).clean.tolist() == [1, 2, 3]
