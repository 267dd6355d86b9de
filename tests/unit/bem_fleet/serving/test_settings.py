"""Settings of a mission's engine."""

import pytest
from bem_fleet.serving import EngineSettings
from pydantic import ValidationError


def test_limits_are_checked() -> None:
    """A queue below zero and a batch of none are refused."""
    with pytest.raises(ValidationError, match="queue"):
        EngineSettings(queue=-1)
    with pytest.raises(ValidationError, match="rows"):
        EngineSettings(rows=0)
