"""Tests of the eviction policies; whole outputs are in ``engine/test_cache_compression.py``."""

import pytest
import torch
from bem.cache_policy import EVICTION_POLICIES, kept_entries, kept_positions
from bem.cache_policy.eviction import pool_positions, protect_last

from tests.unit.bem.cache_policy.random_entries import random_entries


@pytest.mark.parametrize(
    ("count", "share", "kept"),
    [(100, 0.25, 25), (30, 0.1, 3), (7, 0.5, 4), (3, 0.01, 1), (5, 1, 5)],
)
def test_a_share_is_rounded_up_to_whole_positions(count: int, share: float, kept: int) -> None:
    """At least one entry stays, and never more than there are."""
    assert kept_positions(count, share) == kept


def test_the_best_entries_stay_in_the_order_of_the_text() -> None:
    """Of equal scores the earlier one stays."""
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])

    assert kept_entries(scores, 2).tolist() == [[1, 3], [0, 1]]


@pytest.mark.parametrize("name", EVICTION_POLICIES)
def test_a_policy_scores_every_entry_of_every_head(name: str) -> None:
    """The scores have no NaN, and a policy asks for as many queries as it is given."""
    policy = EVICTION_POLICIES[name]()
    entries = random_entries(count=20, observed=policy.observed(20))
    scores = policy.scores(0, entries, 10)

    assert policy.name == name
    assert scores.shape == (2, 20)
    assert not scores.isnan().any()


def test_sinks_leave_room_for_a_window() -> None:
    """With few entries at most half of them are sinks."""
    policy = EVICTION_POLICIES["streaming_llm"]()
    entries = random_entries(count=20, observed=0)

    assert kept_entries(policy.scores(0, entries, 4), 4)[0].tolist() == [0, 1, 18, 19]
    assert kept_entries(policy.scores(0, entries, 1), 1)[0].tolist() == [19]


def test_heads_keep_entries_of_their_own() -> None:
    """The choice is made for each KV head."""
    entries = random_entries(count=20, observed=20)
    kept = kept_entries(EVICTION_POLICIES["h2o"]().scores(0, entries, 8), 8)

    assert kept[0].tolist() != kept[1].tolist()
    assert kept[:, -4:].tolist() == [[16, 17, 18, 19]] * 2


def test_pooling_and_protection() -> None:
    """Averages count what is outside as 0; no position is protected by a count of 0."""
    scores = torch.tensor([[3.0, 0.0, 0.0, 6.0]])

    assert pool_positions(scores, 3).tolist() == [[1.0, 1.0, 2.0, 2.0]]
    assert protect_last(scores, 0).tolist() == scores.tolist()
    assert protect_last(scores, 1).tolist() == [[3.0, 0.0, 0.0, float("inf")]]
