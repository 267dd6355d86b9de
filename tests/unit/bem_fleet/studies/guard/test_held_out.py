"""Report on held-out families, without opening them."""

import numpy as np
from bem_fleet.studies.guard.held_out import measure


def test_interval_counts_families_not_texts() -> None:
    """Ten families that succeed or fail as a whole say as little as ten texts."""
    families = [str(number // 30) for number in range(300)]
    by_family = measure(np.array([int(f) % 2 == 0 for f in families]), families)
    rng = np.random.default_rng(0)
    by_text = measure(rng.random(300) < 0.5, families)

    assert (by_family["n"], by_family["families"], by_family["rate"]) == (300, 10, 0.5)
    assert by_family["high"] - by_family["low"] > 0.5
    assert by_text["high"] - by_text["low"] < 0.15


def test_equal_outcomes_have_an_interval_too() -> None:
    """None of n withheld is not a rate of exactly 0; nor is all of them exactly 1."""
    families = [str(number % 20) for number in range(300)]
    none, every = (measure(np.full(300, value), families) for value in (False, True))

    assert (none["low"], none["rate"]) == (0.0, 0.0)
    assert 0.05 < none["high"] < 0.1
    assert (every["rate"], every["high"]) == (1.0, 1.0)
    assert 0.9 < every["low"] < 0.95
