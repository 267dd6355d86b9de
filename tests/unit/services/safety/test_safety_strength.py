"""Safety strength: precedence, floor and validation."""

import pytest
from bem_fleet.services.safety.safety_strength import (
    SafetyStrength,
    SafetyStrengthStore,
    parse_strength,
)
from bem_fleet.services.safety.settings import SafetySettings
from fleet.errors import InvalidArgumentError


def store(**values: float) -> SafetyStrengthStore:
    """Return a store with the given Redis fields."""
    found = SafetyStrengthStore(SafetySettings())
    found._values = {name.replace("__", ":"): value for name, value in values.items()}
    return found


def test_tenant_comes_before_default_and_bounds_the_request() -> None:
    """A client raises its own strength, and lowers it no more than to its tenant's."""
    strengths = store(all=0.25, tenant__acme=0.75, floor=0.1)

    assert strengths.resolve() == SafetyStrength(0.25)
    assert strengths.resolve("acme") == SafetyStrength(0.75)
    assert strengths.resolve("acme", "0.9") == SafetyStrength(0.9)
    assert strengths.resolve("acme", "0.5") == SafetyStrength(0.75)
    assert strengths.resolve("", "0") == SafetyStrength(0.25)


def test_operator_may_lower_to_the_floor() -> None:
    """The floor holds for everybody."""
    strengths = store(all=0.25, tenant__acme=0.75, floor=0.1)

    assert strengths.resolve("acme", "0.5", may_lower=True) == SafetyStrength(0.5)
    assert strengths.resolve("acme", "0", may_lower=True) == SafetyStrength(0.1)
    assert strengths.resolve("acme", None, may_lower=True) == SafetyStrength(0.75)
    assert store().resolve("", "0", may_lower=True) == SafetyStrength(0.0)


def test_nothing_set_leaves_the_default_to_the_mission() -> None:
    """A floor or a request bounds the mission's default from below, and never replaces it."""
    assert store().resolve() == SafetyStrength()
    assert store(floor=0.3).resolve() == SafetyStrength(minimum=0.3)
    assert store(floor=0.3).resolve("", "0") == SafetyStrength(minimum=0.3)
    assert store(floor=0.3).resolve("", "0.8") == SafetyStrength(minimum=0.8)


@pytest.mark.parametrize("value", ["x", "-0.1", "1.1", "nan", ""])
def test_values_outside_0_to_1_are_rejected(value: str) -> None:
    """The error names the header."""
    with pytest.raises(InvalidArgumentError, match="bem-safety-strength"):
        store().resolve("", value)
    with pytest.raises(InvalidArgumentError, match="floor"):
        parse_strength("floor", value)
