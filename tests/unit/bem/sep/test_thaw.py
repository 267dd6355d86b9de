"""The thaw: a plateau opens the next group, and a loss of clean quality ends it."""

import math

import pytest
from bem.errors import InvalidSettingError
from bem.sep.thaw import ThawSettings, ThawState, observe_losses

SETTINGS = ThawSettings(groups=3, patience=2, least_gain=0.1)


def observe(losses: list[float], clean: float = 1.0, state: ThawState | None = None) -> ThawState:
    """Return the state after losses in turn."""
    state = state or ThawState()
    for loss in losses:
        state = observe_losses(state, SETTINGS, loss=loss, clean_loss=clean)
    return state


def test_groups_open_on_plateaus_until_all_are_open() -> None:
    """Improvements below the least gain are none; a new group begins a new search."""
    assert observe([5, 4, 3]).opened == 1
    assert observe([5, 4.95, 4.92]).opened == 2
    assert observe([5, 4.95, 4.92]).best == math.inf
    assert observe([5, 5, 5, 4, 4, 4]).opened == 3
    assert observe([5] * 30).opened == 3


def test_a_rise_of_the_clean_perplexity_stops() -> None:
    """Up to 1 % is allowed; the bar is the first observation."""
    first = observe([5])

    assert not observe([4], 1 + math.log(1.0099), first).stopped
    assert observe([4], 1 + math.log(1.011), first).stopped
    assert observe([4], math.nan, first).stopped
    assert observe([4], 1 + math.log(1.011), first).first_clean == 1


def test_impossible_settings_are_refused() -> None:
    """At least one group and one observation."""
    with pytest.raises(InvalidSettingError, match="groups and patience are at least 1"):
        ThawSettings(groups=0)
