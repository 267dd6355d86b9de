"""Priority of a call, as the interceptor adopts it."""

import pytest
from fleet import wire
from fleet.call_priority import adopt_priority, yields


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_the_metadata_says_whether_a_call_yields(value: str, expected: bool) -> None:
    """Anything but 1 is an ordinary call, whatever was served before."""
    yields.set(not expected)
    adopt_priority({wire.YIELDS: value})

    assert yields.get() is expected
