"""Unseen families."""

import pytest
from bem_fleet.data.benign_prompts import QUALITY_SETS, origin_splits
from bem_fleet.data.held_out import inspection
from bem_fleet.data.unseen_families import load_unseen_families
from bem_fleet.guard.training.corpus import BENIGN, request_samples, response_samples
from bem_fleet.stats.item_clusters import MIN_CLUSTERS


def test_unseen_families_are_many_and_held_out() -> None:
    """No set that was split item by item is among them, and families take turns."""
    with inspection():
        found = load_unseen_families(300)
    counts = (len(found.requests), len(found.replies))
    requests, replies = ({one.family for one in own} for own in (found.requests, found.replies))

    assert counts == (300, 300)
    assert len(requests | replies) >= 2 * MIN_CLUSTERS
    assert not (requests | replies) & set(QUALITY_SETS)
    assert {origin_splits().get(name, "held_out") for name in requests | replies} == {"held_out"}
    assert len({one.family for one in found.requests[: len(requests)]}) == len(requests)
    assert {one.role for one in found.requests} == {"request"}
    assert {one.role for one in found.replies} == {"response"}
    assert all(one.cluster == one.family for one in (*found.requests, *found.replies))


@pytest.mark.slow
def test_no_stranger_is_of_a_family_that_the_heads_know() -> None:
    """Families, not texts: thresholds fit the families that they were calibrated on."""
    with inspection():
        found = load_unseen_families(5000)
    families = {one.family for one in (*found.requests, *found.replies)}
    known = {
        sample.family
        for sample in (*request_samples(0), *response_samples(0))
        if sample.label == BENIGN
    }

    assert not families & known
