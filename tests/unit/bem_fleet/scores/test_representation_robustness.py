"""RRS on constructed cases: invariance is 1, other items are 0, collapse is refused."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.representation_robustness import derangement, representation_robustness
from hypothesis import given
from hypothesis import strategies as st

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(size=(200, 6)) + 1.0


def test_invariant_representations_score_one() -> None:
    """Scrambles that move nothing give 1, whatever items have in common."""
    score = representation_robustness(CLEAN, [CLEAN, CLEAN.copy()])

    assert score.cosine == pytest.approx(1.0)
    assert score.cka == pytest.approx(1.0)
    assert score.chance_cosine > 0.3
    assert np.mean(score.items) == pytest.approx(score.cosine)
    assert len(score.items) == 200


def test_representations_of_other_items_score_zero() -> None:
    """A scramble that is as far as another item is gives about 0."""
    shuffled = [CLEAN[derangement(200, np.random.default_rng(seed))] for seed in range(1, 9)]
    score = representation_robustness(CLEAN, shuffled)

    assert abs(score.cosine) < 0.1
    assert abs(score.cka) < 0.1


def test_score_is_the_formula_and_falls_with_noise() -> None:
    """Two items by hand: (s - chance) / (1 - chance); opposite representations are below 0."""
    clean = np.concatenate([CLEAN, CLEAN])
    little, much = (clean + size * RNG.normal(size=clean.shape) for size in (0.3, 1.5))
    scores = [representation_robustness(clean, [one]) for one in (clean, little, much, -clean)]

    assert [one.cosine for one in scores] == sorted((one.cosine for one in scores), reverse=True)
    assert scores[1].cka > scores[2].cka
    chance = scores[3].chance_cosine
    assert scores[3].cosine == pytest.approx((-1 - chance) / (1 - chance))


def test_collapsed_representations_are_refused() -> None:
    """One point for all items is no robustness; no scramble is no score."""
    with pytest.raises(InvalidScoresError, match="which collapsed"):
        representation_robustness(np.ones((20, 3)), [np.ones((20, 3))])
    with pytest.raises(InvalidScoresError, match="no scramble"):
        representation_robustness(CLEAN, [])


@given(st.integers(2, 50), st.integers(0, 2**32))
def test_every_item_has_another_partner(count: int, seed: int) -> None:
    """The partners are a permutation without fixed points."""
    partners = derangement(count, np.random.default_rng(seed))

    assert sorted(partners) == list(range(count))
    assert not np.any(partners == np.arange(count))


def test_a_single_item_has_no_partner() -> None:
    """At least two items are needed."""
    with pytest.raises(InvalidScoresError, match="1 items; at least 2"):
        derangement(1, np.random.default_rng(0))
