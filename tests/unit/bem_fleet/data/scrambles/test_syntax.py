"""Syntactic scrambles permute tokens as their names say, and are undone by their record."""

from collections import Counter

import numpy as np
import pytest
from bem_fleet.data.scrambles.catalogue import Scramble
from bem_fleet.data.scrambles.parsing import parse
from bem_fleet.data.scrambles.syntax import (
    scramble_brackets,
    scramble_clauses,
    scramble_dependents,
)

pytestmark = pytest.mark.slow  # loads the parser

TEXTS = (
    "When the rain stopped, the old man walked home. He slept.",
    "The farmer sold his horse and his wife bought a cow, because they needed milk!",
    'He said: "It is late."\n\n  Was it?  (Nobody knew.)',
    "",
    "   ",
    "no verb here ...",
)


@pytest.mark.parametrize("scramble", [scramble_clauses, scramble_brackets, scramble_dependents])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_invariant(scramble: Scramble, text: str) -> None:
    """The result has the same tokens, and the record restores the text."""
    tokens = Counter(token.text for token in parse(text))
    for seed in range(4):
        one = scramble(text, 1.0, np.random.default_rng(seed))
        assert one.restore(one.text) == text
        assert Counter(piece.text for piece in one.pieces if piece.text.strip()) == Counter(
            {token: count for token, count in tokens.items() if token.strip()}
        )
        assert scramble(text, 1.0, np.random.default_rng(seed)).text == one.text
        assert scramble(text, 0.0, np.random.default_rng(seed)).text == text


def test_clauses_change_places() -> None:
    """Words within clauses, the comma between them and the full stop stay."""
    one = scramble_clauses(TEXTS[0], 1.0, np.random.default_rng(0))

    assert one.text == "the old man walked home, When the rain stopped. He slept."
    assert one.aligned_ends()[0] == (4, one.text.index("When") + 4)


def test_conjunctions_stay_between_coordinate_clauses() -> None:
    """Three clauses with a conjunction and a comma, in every order but their own."""
    drawn = {
        scramble_clauses(TEXTS[1], 1.0, np.random.default_rng(seed)).text for seed in range(20)
    }

    assert "his wife bought a cow and The farmer sold his horse, because they needed milk!" in drawn
    assert len(drawn) == 5


def test_clitics_stay_with_the_word_before_them() -> None:
    """Glue between tokens moves with them, and every new gap is one space."""
    one = scramble_dependents("He didn't see it (really).", 1.0, np.random.default_rng(0))

    assert one.restore(one.text) == "He didn't see it (really)."
    assert "  " not in one.text
    assert "(really)" in one.text


def test_heads_follow_their_dependents() -> None:
    """The verb comes last, as in Japanese; applied to a verb alone nothing changes."""
    one = scramble_dependents("The cat ate fresh fish.", 1.0, np.random.default_rng(0))

    assert one.text == "The cat fresh fish ate."


def test_sisters_change_places_within_their_side() -> None:
    """Each side of a head has its constituents in another order."""
    text = "She gave the boy a book."
    drawn = {scramble_brackets(text, 1.0, np.random.default_rng(seed)).text for seed in range(8)}

    assert drawn == {"She gave a book the boy."}
