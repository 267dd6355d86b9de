"""Curricula: rates rise to their end, families open in the design's order."""

import pytest
from bem.errors import InvalidSettingError
from bem.sep.curriculum import FAMILIES, Curriculum


def test_rates_rise_linearly_and_stay() -> None:
    """From the first to the last rate over half of the run, with all families."""
    one = Curriculum()

    assert [one.rate(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx(
        [0.02, 0.085, 0.15, 0.15]
    )
    assert one.strength(0.25) == pytest.approx(0.085 / 0.15)
    assert one.strength(1) == 1
    assert one.families(0) == FAMILIES


def test_families_open_in_turn() -> None:
    """Bijective first, all from the end of the ramp, at the full rate."""
    one = Curriculum(by_family=True, ramp=0.6)

    assert [len(one.families(share)) for share in (0, 0.19, 0.2, 0.4, 0.6, 1)] == [1, 1, 2, 3, 4, 4]
    assert one.families(0) == ("bijective",)
    assert one.rate(0) == one.last_rate


def test_impossible_rates_are_refused() -> None:
    """Rates do not fall."""
    with pytest.raises(InvalidSettingError, match="first_rate <= last_rate"):
        Curriculum(first_rate=0.5, last_rate=0.1)
