"""Hash-based splits."""

from collections import Counter

from bem_fleet.data.splits import SPLIT_SHARES, assign_split, round_robin


def test_shares_are_met_and_every_group_has_one_split() -> None:
    """Of 5,000 groups each split gets its share to 2 points, and the seed changes the draw."""
    groups = [f"passage {n}" for n in range(5_000)]
    counts = Counter(assign_split(group) for group in groups)

    assert all(abs(counts[name] / 5_000 - share) < 0.02 for name, share in SPLIT_SHARES.items())
    assert [assign_split(g) for g in groups[:50]] == [assign_split(g) for g in groups[:50]]
    assert [assign_split(g) for g in groups[:50]] != [assign_split(g, 1) for g in groups[:50]]


def test_round_robin_takes_one_of_each_group_in_turn() -> None:
    """Groups that are exhausted are skipped, and nothing is lost."""
    assert round_robin([[1, 2, 3], [4], [5, 6]]) == [1, 4, 5, 2, 6, 3]
    assert round_robin([]) == []
