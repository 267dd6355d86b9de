"""Tests of the training of a cache scorer."""

from bem.cache_policy import CacheScorer
from bem_fleet.recipes.cache_policy.scorer_training import (
    ScorerTraining,
    fit_scorer,
    retained_attention,
)

from tests.unit.bem_fleet.recipes.cache_policy.synthetic_records import synthetic_records


def test_training_finds_the_feature_that_tells() -> None:
    """The scorer keeps more attention than it did untrained, and at most what is possible."""
    records, scorer = synthetic_records(), CacheScorer(2, 2)
    before = retained_attention(scorer, records)
    losses = fit_scorer(scorer, records, ScorerTraining(steps=60, learning_rate=0.05))
    after = retained_attention(scorer, records)

    assert losses[-1] < losses[0]
    assert after["retained_learned_0.25"] > before["retained_learned_0.25"] + 0.1
    assert after["retained_learned_0.25"] <= after["retained_bound_0.25"]
    assert after["retained_snapkv_0.25"] == before["retained_snapkv_0.25"]


def test_more_bytes_keep_more_attention() -> None:
    """The measured shares are ordered."""
    measured = retained_attention(CacheScorer(2, 2), synthetic_records())

    for name in ("learned", "snapkv", "keydiff", "streaming_llm", "bound"):
        assert 0 < measured[f"retained_{name}_0.25"] <= measured[f"retained_{name}_0.5"] <= 1


def test_a_seed_gives_the_same_scorer() -> None:
    """The order of the records is all that is random."""
    losses = [
        fit_scorer(CacheScorer(2, 2).requires_grad_(), synthetic_records(), ScorerTraining(steps=1))
        for _ in range(2)
    ]

    assert losses[0] == losses[1]
