"""Seeded draws of bijective scrambles, vectorised over a batch.

Kinds: permutations of the alphabet (substitution ciphers), rotations of the alphabet (Caesar
ciphers, a cyclic subgroup), and shuffles of words within windows (position permutations). All take
a generator, so that equal seeds give equal scrambles.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bem.errors import InvalidSettingError
from bem.sep.bijections import Bijection, invert_permutations


def draw_symbol_permutations(
    rows: int,
    alphabet: int,
    generator: torch.Generator,
    *,
    fixed: Sequence[int] = (),
    strength: float = 1.0,
) -> Bijection:
    """Return one uniform permutation of the alphabet, or of a part of it, for each row.

    Args:
        rows: Number of sequences.
        alphabet: Number of ids V.
        generator: Source of randomness.
        fixed: Ids that stay as they are, such as padding and control tokens.
        strength: Share of the other ids, drawn for each row, that the permutation acts on.

    Raises:
        InvalidSettingError: A fixed id is outside the alphabet, or fewer than two ids can move.
    """
    free = _free_ids(alphabet, fixed)
    noise, draws = torch.rand(2, rows, len(free), generator=generator)
    places = torch.arange(len(free)).expand(rows, -1)
    # Ids that are drawn come first, once in random order and once in their own.
    is_drawn = draws < strength
    own = torch.where(is_drawn, places, places + len(free)).argsort(1)
    shuffled = torch.where(is_drawn, noise, 1.0 + places).argsort(1)
    return _permute_free(
        rows, alphabet, free, free[torch.empty_like(own).scatter_(1, own, shuffled)]
    )


def draw_token_rotations(
    rows: int, alphabet: int, generator: torch.Generator, *, fixed: Sequence[int] = ()
) -> Bijection:
    """Return one uniform rotation of the alphabet for each row, none of them the identity.

    Args:
        rows: Number of sequences.
        alphabet: Number of ids V.
        generator: Source of randomness.
        fixed: Ids that stay as they are.

    Raises:
        InvalidSettingError: A fixed id is outside the alphabet, or fewer than two ids can move.
    """
    free = _free_ids(alphabet, fixed)
    offsets = torch.randint(1, len(free), (rows,), generator=generator)
    return token_rotations(offsets, alphabet, fixed=fixed)


def token_rotations(offsets: Tensor, alphabet: int, *, fixed: Sequence[int] = ()) -> Bijection:
    """Return the rotations of the alphabet by ``offsets [B]``; they add under ``then``.

    Args:
        offsets: Places by which the ids that can move are rotated.
        alphabet: Number of ids V.
        fixed: Ids that stay as they are.

    Raises:
        InvalidSettingError: A fixed id is outside the alphabet, or fewer than two ids can move.
    """
    free = _free_ids(alphabet, fixed)
    twice = torch.cat((free, free))  # one turn from any offset on, without a remainder an id
    images = torch.stack([twice[at : at + len(free)] for at in (offsets % len(free)).tolist()])
    return _permute_free(len(offsets), alphabet, free, images)


def draw_word_shuffles(
    ids: Tensor, separators: Tensor, window: int, generator: torch.Generator
) -> Bijection:
    """Return shuffles of words among the words of their window; separators keep their order.

    A word is a longest run of ids that are no separators. Words of different lengths change
    places, so that the text between them moves, but its order stays.

    Args:
        ids: ``[B, T]`` int64.
        separators: ``[V]`` bool, whether an id separates words.
        window: Number of words that are shuffled among each other; 1 is the identity.
        generator: Source of randomness.

    Raises:
        InvalidSettingError: The window is below 1.
    """
    if window < 1:
        raise InvalidSettingError(f"window: {window} words; at least 1")
    rows, length = ids.shape
    places = torch.arange(length).expand(rows, length)
    is_separator = separators[ids]
    is_border = torch.ones_like(is_separator)
    is_border[:, 1:] = is_separator[:, 1:] != is_separator[:, :-1]
    runs = is_border.long().cumsum(1) - 1  # [B, T], words and gaps alternate
    first_word = is_separator[:, :1].long()  # run of the first word: 0 or 1
    numbers = torch.arange(length).expand(rows, length)
    is_word_run = (numbers - first_word) % 2 == 0
    words = (numbers - first_word).div(2, rounding_mode="floor")
    ranks = _window_ranks(rows, length, window, (runs.amax(1) - first_word[:, 0]) // 2, generator)
    slots = torch.where(is_word_run, 2 * ranks.gather(1, words.clamp(min=0)) + first_word, numbers)
    starts = torch.zeros_like(runs).scatter_reduce_(1, runs, places, "amin", include_self=False)
    lengths = torch.zeros_like(runs).scatter_add_(1, runs, torch.ones_like(runs))
    slot_lengths = torch.zeros_like(runs).scatter_(1, slots, lengths)
    slot_starts = slot_lengths.cumsum(1) - slot_lengths
    targets = slot_starts.gather(1, slots.gather(1, runs)) + places - starts.gather(1, runs)
    return Bijection(positions=invert_permutations(targets))


def _window_ranks(
    rows: int, length: int, window: int, last_words: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the new number of each word, ``[B, T]``; numbers beyond the last word stay."""
    numbers = torch.arange(length).expand(rows, length)
    noise = torch.rand(rows, length, generator=generator, dtype=torch.float64)
    keys = torch.where(
        numbers <= last_words.unsqueeze(1), numbers // window + noise, numbers + float(length)
    )
    return invert_permutations(keys.argsort(1))


def _free_ids(alphabet: int, fixed: Sequence[int]) -> Tensor:
    if any(not 0 <= one < alphabet for one in fixed):
        raise InvalidSettingError(f"fixed: {list(fixed)[:8]}; ids lie in [0, {alphabet})")
    free = torch.ones(alphabet, dtype=torch.bool)
    free[list(fixed)] = False
    ids = free.nonzero().squeeze(1)
    if len(ids) < 2:
        raise InvalidSettingError(f"fixed: only {len(ids)} of {alphabet} ids can move; at least 2")
    return ids


def _permute_free(rows: int, alphabet: int, free: Tensor, images: Tensor) -> Bijection:
    if len(free) == alphabet:
        return Bijection(symbols=images)
    symbols = torch.arange(alphabet).repeat(rows, 1)
    return Bijection(symbols=symbols.index_copy_(1, free, images))
