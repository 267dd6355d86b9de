"""Tests of the Lagrange multipliers: PI control, clipping and the saddle point."""

import pytest
from bem.safety import LagrangeMultipliers


def test_multiplier_follows_its_own_violation() -> None:
    """Each moves by rate times its slack, -1 to 1 about epsilon; an unmeasured one stays."""
    multipliers = LagrangeMultipliers(
        ("harm", "bias", "jailbreak", "privacy"), epsilon=0.2, rate=0.5, start=1.0
    )
    multipliers.update({"harm": 0.6, "bias": 0.0, "jailbreak": 0.1})

    assert multipliers.values == pytest.approx(
        {"harm": 1.25, "bias": 0.5, "jailbreak": 0.75, "privacy": 1.0}
    )


def test_proportional_term_removes_the_lag_of_the_integral() -> None:
    """The worked example: the integral stays high, the multiplier with the gain does not."""
    slow, fast = (
        LagrangeMultipliers(("harm",), epsilon=0.2, rate=0.1, gain=gain, start=1.0)
        for gain in (0.0, 2.0)
    )
    for violation in (1.0, 1.0, 0.0):
        for one in (slow, fast):
            one.update({"harm": violation})

    assert slow.values["harm"] == pytest.approx(1.1)
    assert fast.values["harm"] == 0.0


def test_multipliers_are_clipped() -> None:
    """No number of steps leaves [0, cap]."""
    multipliers = LagrangeMultipliers(("harm", "bias"), epsilon=0.2, rate=1.0, start=0.5, cap=2.0)
    for _ in range(20):
        multipliers.update({"harm": 1.0, "bias": 0.0})

    assert multipliers.values == {"harm": 2.0, "bias": 0.0}


def test_loss_weights_add_up_to_one() -> None:
    """Quality keeps its share; with multipliers of zero it has all of it."""
    multipliers = LagrangeMultipliers(("harm",), epsilon=0.1, start=3.0)
    quality, constraints = multipliers.loss_weights()

    assert quality == pytest.approx(0.25)
    assert constraints == pytest.approx({"harm": 0.75})
    assert LagrangeMultipliers(("harm",), epsilon=0.1, start=0.0).loss_weights()[0] == 1.0


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_saddle_point_of_a_small_problem_is_found(gain: float) -> None:
    """Minimise x^2 subject to 1 - x <= 0.5: the ascent ends at x = 0.5 with multiplier 1."""
    multipliers = LagrangeMultipliers(("c",), epsilon=0.5, rate=0.025, gain=gain, start=0.0)
    x = 0.0
    for _ in range(4000):
        x -= 0.05 * (2 * x - multipliers.values["c"])
        multipliers.update({"c": 1 - x})

    assert x == pytest.approx(0.5, abs=1e-2)
    assert multipliers.values["c"] == pytest.approx(1.0, abs=2e-2)


@pytest.mark.parametrize("wrong", [{"epsilon": 1.5}, {"epsilon": 0.0}, {"epsilon": 0.1, "rate": 0}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    """An epsilon outside (0, 1) and a rate of zero are named."""
    with pytest.raises(ValueError, match=r"epsilon|rate"):
        LagrangeMultipliers(("harm",), **wrong)
