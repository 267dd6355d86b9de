"""Kinds compose, are seeded by the number of a text, and keep training from held-out kinds."""

import numpy as np
import pytest
from bem.errors import InvalidSettingError
from bem_fleet.data.scrambles.catalogue import (
    SCRAMBLE_KINDS,
    scramble_text,
    scramble_texts,
    training_kinds,
)

TEXT = "When the rain stopped, the old man walked home."


@pytest.mark.slow
def test_kinds_compose_in_turn_and_are_undone() -> None:
    """A chain of all surface and syntax kinds restores the text, and aligns words."""
    kinds = ["paraphrase", *training_kinds("surface"), *training_kinds("syntax")]
    chain = scramble_text(TEXT, kinds, 0.6, np.random.default_rng(1))

    assert chain.text != TEXT
    assert len(chain.steps) == len(kinds)
    assert chain.restore(chain.text) == TEXT
    assert all(0 < end <= len(chain.text) for _, end in chain.aligned_ends())


def test_a_text_has_its_scramble_in_any_batch() -> None:
    """The number of a text decides, not its neighbours; other seeds scramble otherwise."""
    texts = [f"{TEXT} {number}" for number in range(6)]
    together = [one.text for one in scramble_texts(texts, ["typo-drop"], 0.5, seed=3)]
    apart = [one.text for one in scramble_texts(texts[4:], ["typo-drop"], 0.5, seed=3, first=4)]

    assert together[4:] == apart
    assert together != [one.text for one in scramble_texts(texts, ["typo-drop"], 0.5, seed=4)]


def test_held_out_kinds_are_not_for_training() -> None:
    """Every family has kinds for training; three kinds have none."""
    held_out = {name for name, kind in SCRAMBLE_KINDS.items() if kind.held_out}

    assert held_out == {"typo-repeat", "typo-transpose", "paraphrase-held-out"}
    assert not held_out & set(training_kinds())
    assert {SCRAMBLE_KINDS[name].family for name in training_kinds()} == {
        "surface",
        "syntax",
        "semantic",
    }


def test_paraphrase_changes_a_share_of_the_texts() -> None:
    """The rate of a template is the share of texts."""
    changed = sum(
        one.text != TEXT for one in scramble_texts([TEXT] * 400, ["paraphrase"], 0.25, seed=0)
    )

    assert 70 < changed < 130


@pytest.mark.parametrize(
    ("kinds", "rate", "problem"),
    [(["typo"], 0.5, "typo"), ([], 0.5, "none"), (["case"], 1.5, "rate")],
)
def test_bad_settings_are_named(kinds: list[str], rate: float, problem: str) -> None:
    """Unknown kinds, no kind and rates beyond 1 are refused."""
    with pytest.raises(InvalidSettingError, match=problem):
        scramble_text(TEXT, kinds, rate, np.random.default_rng(0))
