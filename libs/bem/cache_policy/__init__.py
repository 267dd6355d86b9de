"""Cache policies: which keys and values of a prompt stay in the cache at a share of its bytes."""

from bem.cache_policy.entries import Entries, attention_mass
from bem.cache_policy.eviction import (
    EVICTION_POLICIES,
    EvictionPolicy,
    HeavyHitterPolicy,
    KeyDiversityPolicy,
    ObservationWindowPolicy,
    SinkWindowPolicy,
    kept_entries,
    kept_positions,
)
from bem.cache_policy.learned import CacheScorer, LearnedPolicy

__all__ = [
    "EVICTION_POLICIES",
    "CacheScorer",
    "Entries",
    "EvictionPolicy",
    "HeavyHitterPolicy",
    "KeyDiversityPolicy",
    "LearnedPolicy",
    "ObservationWindowPolicy",
    "SinkWindowPolicy",
    "attention_mass",
    "kept_entries",
    "kept_positions",
]
