"""Tests of the learned cache policy."""

import torch
from bem.cache_policy import CacheScorer, LearnedPolicy, ObservationWindowPolicy, kept_entries
from bem.cache_policy.learned import FEATURES, entry_features

from tests.unit.bem.cache_policy.random_entries import random_entries


def test_features_are_finite_and_named() -> None:
    """Each entry of each head has all features."""
    features = entry_features(random_entries())

    assert features.shape == (2, 20, len(FEATURES))
    assert features.isfinite().all()
    assert features[0, :5, FEATURES.index("sink")].tolist() == [1, 1, 1, 1, 0]


def test_an_untrained_scorer_ranks_by_pooled_attention() -> None:
    """Training starts from SnapKV."""
    entries = random_entries()
    scorer = CacheScorer(layers=3, kv_heads=2, window=6)
    kept = [
        kept_entries(policy.scores(1, entries, 10), 10).tolist()
        for policy in (LearnedPolicy(scorer), ObservationWindowPolicy(window=6))
    ]

    assert kept[0] == kept[1]


def test_layers_and_heads_have_weights_of_their_own() -> None:
    """Another layer may rank the same entries otherwise."""
    entries, scorer = random_entries(), CacheScorer(layers=2, kv_heads=2, window=6)
    with torch.no_grad():
        scorer.heads[1] = 0.0
        scorer.heads[1, :, FEATURES.index("place")] = -1.0
    policy = LearnedPolicy(scorer)

    assert kept_entries(policy.scores(1, entries, 8), 8)[0].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert kept_entries(policy.scores(0, entries, 8), 8)[0].tolist() != [0, 1, 2, 3, 16, 17, 18, 19]


def test_the_window_is_at_most_the_prompt() -> None:
    """A short prompt has fewer queries than the window."""
    policy = LearnedPolicy(CacheScorer(2, 2, window=32))

    assert (policy.observed(10), policy.observed(100)) == (10, 32)
