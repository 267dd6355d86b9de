"""Multipliers: up where the bound is broken, never below zero, never above the cap."""

import pytest
from bem.safety import Multipliers


def test_multiplier_follows_its_own_violation() -> None:
    """Each moves by rate times its slack, -1 to 1 about epsilon; an unmeasured one stays."""
    found = Multipliers(("harm", "bias", "jailbreak", "privacy"), epsilon=0.2, rate=0.5, start=1.0)
    found.ascend({"harm": 0.6, "bias": 0.0, "jailbreak": 0.1})

    assert found.values == pytest.approx(
        {"harm": 1.25, "bias": 0.5, "jailbreak": 0.75, "privacy": 1.0}
    )


def test_present_slack_lets_a_high_multiplier_go_at_once() -> None:
    """The integral remembers the broken bound; with the gain the multiplier does not."""
    slow, fast = (
        Multipliers(("harm",), epsilon=0.2, rate=0.1, gain=gain, start=1.0) for gain in (0.0, 2.0)
    )
    for violation in (1.0, 1.0, 0.0):
        for one in (slow, fast):
            one.ascend({"harm": violation})

    assert slow.values["harm"] == pytest.approx(1.1)
    assert fast.values["harm"] == 0.0


def test_multipliers_are_projected() -> None:
    """No number of steps leaves [0, cap]."""
    found = Multipliers(("harm", "bias"), epsilon=0.2, rate=1.0, start=0.5, cap=2.0)
    for _ in range(20):
        found.ascend({"harm": 1.0, "bias": 0.0})

    assert found.values == {"harm": 2.0, "bias": 0.0}


def test_shares_add_up_to_one() -> None:
    """Quality keeps its part; without multipliers it has all."""
    found = Multipliers(("harm",), epsilon=0.1, start=3.0)
    quality, shares = found.shares()

    assert quality == pytest.approx(0.25)
    assert shares == pytest.approx({"harm": 0.75})
    assert Multipliers(("harm",), epsilon=0.1, start=0.0).shares()[0] == 1.0


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_saddle_point_of_a_small_problem_is_found(gain: float) -> None:
    """Minimise x^2 subject to 1 - x <= 0.5: the ascent ends at x = 0.5 with multiplier 1."""
    found = Multipliers(("c",), epsilon=0.5, rate=0.025, gain=gain, start=0.0)
    x = 0.0
    for _ in range(4000):
        x -= 0.05 * (2 * x - found.values["c"])
        found.ascend({"c": 1 - x})

    assert x == pytest.approx(0.5, abs=1e-2)
    assert found.values["c"] == pytest.approx(1.0, abs=2e-2)


@pytest.mark.parametrize("wrong", [{"epsilon": 1.5}, {"epsilon": 0.0}, {"epsilon": 0.1, "rate": 0}])
def test_settings_without_sense_are_refused(wrong: dict[str, float]) -> None:
    """An epsilon without room on both sides and a step that does not move are named."""
    with pytest.raises(ValueError, match=r"epsilon|rate"):
        Multipliers(("harm",), **wrong)
