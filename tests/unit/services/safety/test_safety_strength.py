"""Safety strength: precedence, floor, validation and operator keys."""

import hashlib

import pytest
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore, parse_strength
from bem_fleet.services.safety.settings import SafetySettings
from fleet.errors import DeniedError, InvalidArgumentError


def store(**values: float) -> SafetyStrengthStore:
    """Return a store with the given Redis fields."""
    found = SafetyStrengthStore(SafetySettings())
    found._values = {name.replace("__", ":"): value for name, value in values.items()}
    return found


def test_request_comes_before_tenant_and_tenant_before_default() -> None:
    """The floor bounds them all."""
    strengths = store(all=0.25, tenant__acme=0.75, floor=0.1)

    assert strengths.resolve() == 0.25
    assert strengths.resolve("acme") == 0.75
    assert strengths.resolve("acme", "0.5") == 0.5
    assert strengths.resolve("acme", "0") == 0.1


def test_nothing_set_leaves_the_default_to_the_mission() -> None:
    """Without values there is no strength; with a floor only, the floor."""
    assert store().resolve() is None
    assert store(floor=0.3).resolve() == 0.3


@pytest.mark.parametrize("value", ["x", "-0.1", "1.1", "nan", ""])
def test_values_outside_0_to_1_are_rejected(value: str) -> None:
    """The error names the header."""
    with pytest.raises(InvalidArgumentError, match="bem-safety-strength"):
        store().resolve("", value)
    with pytest.raises(InvalidArgumentError, match="floor"):
        parse_strength("floor", value)


def test_operator_key_is_required() -> None:
    """A wrong key, and any key where none is configured, is denied."""
    digest = hashlib.sha256(b"secret").hexdigest()
    configured = SafetyStrengthStore(SafetySettings(operator_key_sha256=digest))
    configured.authorize("secret")
    with pytest.raises(DeniedError, match="wrong"):
        configured.authorize("guess")
    with pytest.raises(DeniedError, match="configured"):
        store().authorize("secret")
