"""Properties of surface scrambles on any text: inverse, invariants, lengths, alphabets, seeds."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from bem_fleet.data.scrambles.scrambled_text import ScrambledText
from bem_fleet.data.scrambles.surface import (
    HELD_OUT_TYPOS,
    NEIGHBOURS,
    TYPO_KINDS,
    scramble_case,
    scramble_typos,
    scramble_whitespace,
    split_parts,
)
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(max_size=60)
RATES = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)
SCRAMBLES: dict[str, Callable[[str, float, np.random.Generator], ScrambledText]] = {
    **{kind: partial(scramble_typos, kind=kind) for kind in TYPO_KINDS},
    "case": scramble_case,
    "whitespace": scramble_whitespace,
}


@pytest.mark.parametrize("kind", SCRAMBLES)
@given(TEXTS, RATES, SEEDS)
def test_every_scramble_is_undone_and_seeded(kind: str, text: str, rate: float, seed: int) -> None:
    """The record restores any text; equal seeds give equal scrambles; rate 0 changes nothing."""
    scramble = SCRAMBLES[kind]
    one = scramble(text, rate, np.random.default_rng(seed))

    assert one.source == text
    assert one.restore(one.text) == text
    assert scramble(text, rate, np.random.default_rng(seed)).text == one.text
    assert scramble(text, 0.0, np.random.default_rng(seed)).text == text


@given(TEXTS, SEEDS)
def test_invariants_hold_on_any_text(text: str, seed: int) -> None:
    """Case keeps the casefolded text, whitespace keeps the words."""
    rng = np.random.default_rng(seed)

    assert scramble_case(text, 1.0, rng).text.casefold() == text.casefold()
    assert scramble_whitespace(text, 1.0, rng).text.split() == text.split()


@pytest.mark.parametrize(
    ("kind", "change"),
    [("substitute", 0), ("transpose", 0), ("insert", 1), ("repeat", 1), ("drop", -1)],
)
@given(st.lists(st.text("abcxyzQM", min_size=1, max_size=7), max_size=8), SEEDS)
def test_typos_have_one_edit_in_every_long_word(
    kind: str, change: int, words: list[str], seed: int
) -> None:
    """At rate 1 words of three letters or more change by one edit, shorter ones not at all."""
    text = " ".join(words)
    typed = scramble_typos(text, 1.0, np.random.default_rng(seed), kind=kind).text.split(" ")

    for word, new in zip(text.split(" "), typed, strict=True):
        assert len(new) == len(word) + (change if len(word) >= 3 else 0)
        if len(word) < 3:
            assert new == word
        if kind == "transpose":
            assert sorted(new) == sorted(word)
        if kind == "substitute" and len(word) >= 3:
            different = [(a, b) for a, b in zip(word, new, strict=True) if a != b]
            assert len(different) == 1
            assert different[0][1].lower() in NEIGHBOURS[different[0][0].lower()]


def test_neighbours_are_symmetric_and_beside_each_other() -> None:
    """Every key has two to seven neighbours, and is one of each of them."""
    assert len(NEIGHBOURS) == 26
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)
    assert all(2 <= len(others) <= 7 for others in NEIGHBOURS.values())
    assert set("qedas") >= set(NEIGHBOURS["w"]) - {"s"}
    assert "p" not in NEIGHBOURS["a"]


def test_rates_are_shares_of_words() -> None:
    """One in eight words is mistyped at a rate of 1/8."""
    text = "wonderful " * 4000
    typed = scramble_typos(text, 0.125, np.random.default_rng(0), kind="drop").text.split()

    assert 0.11 < sum(word != "wonderful" for word in typed) / 4000 < 0.14


@given(TEXTS)
def test_parts_make_up_the_text(text: str) -> None:
    """Nothing is lost between parts, and words are letters only."""
    parts, is_word = split_parts(text)

    assert "".join(parts) == text
    assert [part.isalpha() for part in parts] == is_word.tolist()


def test_two_of_five_kinds_are_held_out() -> None:
    """The core metric uses kinds of typing errors that no training has."""
    assert len(TYPO_KINDS) == 5
    assert set(HELD_OUT_TYPOS) < set(TYPO_KINDS)
    assert len(HELD_OUT_TYPOS) == 2
