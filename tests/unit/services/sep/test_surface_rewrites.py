"""Seeded rewrites of a message."""

import pytest
from bem_fleet.services.sep.surface_rewrites import KINDS, surface_rewrites

TEXT = "Where is the old harbour of the town?"


def test_rewrites_differ_from_the_message_and_follow_from_the_seed() -> None:
    """Kinds take turns; a seed repeats its rewrites, and another one draws others."""
    first = surface_rewrites(TEXT, 8, seed=1, rate=0.2)

    assert [one.kind for one in first] == [*KINDS, next(iter(KINDS))]
    assert all(one.text != TEXT for one in first)
    assert first == surface_rewrites(TEXT, 8, seed=1, rate=0.2)
    assert first != surface_rewrites(TEXT, 8, seed=2, rate=0.2)


@pytest.mark.parametrize("text", ["1234", "?!", "", "7"])
def test_a_text_in_which_nothing_can_change_has_no_rewrites(text: str) -> None:
    """Digits have neither case nor keyboard neighbours."""
    assert surface_rewrites(text, 4, seed=0, rate=0.5) == []


def test_a_kind_that_cannot_change_the_message_gives_its_turn_away() -> None:
    """A message of two short words has no typing error, but case and a gap."""
    kinds = {one.kind for one in surface_rewrites("is it", 4, seed=0, rate=0.1)}

    assert kinds == {"case", "whitespace"}
