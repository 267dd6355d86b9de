"""Effect sizes, power and needed items."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.effects import paired_effect, power, required_items


def test_effect_of_known_pairs() -> None:
    """Differences 1, 2, 3, 0 have mean 1.5 and deviation sqrt(5/3); all that move, win."""
    effect = paired_effect([2, 4, 6, 1], [1, 2, 3, 1])

    assert effect.difference == 1.5
    assert effect.d_z == pytest.approx(1.5 / np.sqrt(5 / 3))
    assert effect.hedges_g == pytest.approx(effect.d_z * 0.7236, abs=1e-3)
    assert effect.rank_biserial == 1
    assert (effect.wins, effect.losses) == (0.75, 0)


def test_ties_have_no_standardised_effect() -> None:
    """Where nothing varies, d_z is NaN and the rank correlation 0."""
    effect = paired_effect([1, 1], [1, 1])

    assert np.isnan(effect.d_z)
    assert effect.rank_biserial == 0


def test_needed_items_have_the_wanted_power() -> None:
    """Power at the needed number is just above what was asked for."""
    items = required_items(0.015, 0.3)

    assert power(0.015, 0.3, items) >= 0.8 > power(0.015, 0.3, items - 10)
    assert required_items(0.015, 0.3, alternative="greater") < items
    assert required_items(-0.015, 0.3, alternative="less") < items


def test_questions_without_an_answer_are_refused() -> None:
    """No deviation, the wrong side, a single item: each is an error that says why."""
    with pytest.raises(InvalidScoresError, match="deviation above 0"):
        power(0.1, 0.0, 100)
    with pytest.raises(InvalidScoresError, match="not detectable"):
        required_items(-0.1, 1.0, alternative="greater")
    with pytest.raises(InvalidScoresError, match="not detectable"):
        required_items(0.0, 1.0)
    with pytest.raises(InvalidScoresError, match="at least 2"):
        paired_effect([1], [0])
    with pytest.raises(InvalidScoresError, match="at least 2"):
        power(0.1, 1.0, 1)


@pytest.mark.parametrize("ratio", [1e-4, 0.02, 0.5, 3.0, 100.0, 1e6])
def test_required_items_are_the_fewest(ratio: float) -> None:
    """At any effect size the power is reached at the number returned and not at one less."""
    items = required_items(ratio, 1.0)

    assert items >= 2
    assert power(ratio, 1.0, items) >= 0.8
    assert items == 2 or power(ratio, 1.0, items - 1) < 0.8


def test_effects_too_small_to_show_are_refused() -> None:
    """An effect that needs more pairs than anyone has is an error, not an endless search."""
    with pytest.raises(InvalidScoresError, match="needs more than"):
        required_items(1e-9, 1.0)
    with pytest.raises(InvalidScoresError, match="alternative: 'LESS'"):
        power(1.0, 1.0, 10, alternative="LESS")  # type: ignore[arg-type]
