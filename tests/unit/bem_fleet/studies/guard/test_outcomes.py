"""Outcomes of gate C's guard study."""

from bem_fleet.studies.guard.outcomes import items_digest, rates_by_group


def test_rates_are_means_over_guards_and_attacks() -> None:
    """Each group has its number of attacks, and its rates without and with the sidecar."""
    outcomes = {
        "rows": [{"kind": "a"}, {"kind": "b"}, {"kind": "a"}],
        "baseline": [1.0, 1.0, 0.0],
        "mission": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    }

    assert list(rates_by_group(outcomes, "kind")) == [("a", 2, 0.5, 0.25), ("b", 1, 1.0, 0.0)]


def test_digest_depends_on_order() -> None:
    """Scores are stored by position, so the order of the keys counts."""
    assert items_digest(["a", "b"]) != items_digest(["b", "a"])
