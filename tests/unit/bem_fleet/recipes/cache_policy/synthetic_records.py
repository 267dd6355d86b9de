"""Attention records in which one feature tells where the reply looks."""

import torch
from bem.cache_policy.learned import FEATURES
from bem_fleet.recipes.cache_policy.attention_records import AttentionRecord

INFORMATIVE = FEATURES.index("value_norm")


def synthetic_records(count: int = 6) -> list[AttentionRecord]:
    """Return records of 2 layers and heads whose targets follow the norm of the value."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for index in range(count):
        features = torch.randn(2, 2, 24, len(FEATURES), generator=generator)
        targets = (3 * features[..., INFORMATIVE]).softmax(-1)
        records.append(AttentionRecord(features, targets, f"passage-{index % 3}"))
    return records
