"""Properties of drawn scrambles: seeds, lengths, alphabets, windows, and the laws of each kind."""

import re

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.bijection_draws import (
    draw_symbol_permutations,
    draw_token_rotations,
    draw_word_shuffles,
    token_rotations,
)
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32)
SPACE = 26
LINES = st.lists(st.text("abc ", min_size=9, max_size=9), min_size=1, max_size=4)


def encode(lines: list[str]) -> torch.Tensor:
    """Return letters as 0 to 25 and the space as 26."""
    return torch.tensor([[SPACE if one == " " else ord(one) - 97 for one in s] for s in lines])


def decode(ids: torch.Tensor) -> list[str]:
    """Return the lines of ids."""
    return ["".join(" " if one == SPACE else chr(97 + one) for one in row) for row in ids.tolist()]


def shuffle(lines: list[str], window: int, seed: int) -> list[str]:
    """Return the lines with shuffled words, and check that the inverse restores them."""
    ids, separators = encode(lines), torch.arange(SPACE + 1) == SPACE
    one = draw_word_shuffles(ids, separators, window, torch.Generator().manual_seed(seed))
    assert decode(one.inverse()(one(ids))) == lines
    return decode(one(ids))


@given(SEEDS, st.integers(3, 30), st.sets(st.integers(0, 2), max_size=1))
def test_ciphers_are_bijections_that_leave_fixed_ids(
    seed: int, alphabet: int, fixed: set[int]
) -> None:
    """Each row has every id once, fixed ids stay, and the seed decides."""
    for draw in (draw_symbol_permutations, draw_token_rotations):
        one, again = (
            draw(4, alphabet, torch.Generator().manual_seed(seed), fixed=sorted(fixed))
            for _ in range(2)
        )
        assert one.symbols is not None
        assert again.symbols is not None
        assert torch.equal(one.symbols, again.symbols)
        assert torch.equal(one.symbols.sort(1).values, torch.arange(alphabet).repeat(4, 1))
        assert all(one.symbols[:, place].eq(place).all() for place in fixed)


@pytest.mark.parametrize(("strength", "least", "most"), [(0.0, 0, 0), (0.3, 40, 80), (1, 190, 200)])
def test_strength_is_the_share_of_ids_that_move(strength: float, least: int, most: int) -> None:
    """Weak keys move few ids and are bijections too."""
    one = draw_symbol_permutations(1, 200, torch.Generator().manual_seed(0), strength=strength)

    assert one.symbols is not None
    assert torch.equal(one.symbols.sort(1).values[0], torch.arange(200))
    assert least <= int(one.symbols.ne(torch.arange(200)).sum()) <= most


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(2, 20))
def test_rotations_are_a_cyclic_group(first: int, second: int, alphabet: int) -> None:
    """Rotations add modulo the size of the alphabet, and the opposite rotation is the inverse."""
    ids = torch.arange(alphabet)[None]
    one, two, both, back = (
        token_rotations(torch.tensor([offset]), alphabet)
        for offset in (first, second, first + second, -first)
    )

    assert torch.equal(one.then(two)(ids), both(ids))
    assert torch.equal(back(ids), one.inverse()(ids))
    assert torch.equal(token_rotations(torch.tensor([alphabet]), alphabet)(ids), ids)


@given(SEEDS)
def test_drawn_rotations_move_every_id(seed: int) -> None:
    """No row is the identity."""
    ids = torch.arange(5).repeat(8, 1)
    one = draw_token_rotations(8, 5, torch.Generator().manual_seed(seed))

    assert not one(ids).eq(ids).any()


@given(LINES, st.integers(1, 4), SEEDS)
def test_shuffled_words_stay_in_their_window(lines: list[str], window: int, seed: int) -> None:
    """Every window has its words and every gap its place; length and alphabet are kept."""
    for line, out in zip(lines, shuffle(lines, window, seed), strict=True):
        words, shuffled = line.split(), out.split()
        assert len(out) == len(line)
        for begin in range(0, len(words), window):
            part = slice(begin, begin + window)
            assert sorted(shuffled[part]) == sorted(words[part])
        assert gaps(out) == gaps(line)


def gaps(line: str) -> list[str]:
    """Return the runs of spaces."""
    return re.findall(" +", line)


def test_every_order_of_a_window_is_drawn() -> None:
    """Three words have six orders; windows of one word change nothing."""
    lines = ["a bb  ccc"] * 300

    assert len(set(shuffle(lines, 3, 0))) == 6
    assert shuffle(lines, 1, 0) == lines


def test_impossible_draws_are_refused() -> None:
    """Fixed ids outside the alphabet, alphabets without choice and empty windows are named."""
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InvalidSettingError, match=r"fixed: \[9\]; ids lie in \[0, 5\)"):
        draw_symbol_permutations(1, 5, generator, fixed=[9])
    with pytest.raises(InvalidSettingError, match="only 1 of 2 ids can move"):
        draw_token_rotations(1, 2, generator, fixed=[0])
    with pytest.raises(InvalidSettingError, match="window: 0 words; at least 1"):
        draw_word_shuffles(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1), 0, generator)
