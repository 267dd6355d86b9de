"""The value head: separates, and is exactly zero for what is harmless."""

import pytest
import torch
from bem.safety import ValueHead


def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of 60 risky and 240 harmless requests, apart in one direction."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 16, generator=generator)
    risky = torch.arange(300) < 60
    features[risky, 3] += 6
    return features, risky


def test_fitted_head_finds_risk_and_calibration_bounds_false_alarms() -> None:
    """Nearly all risky requests get a value, at most the allowed share of the harmless."""
    features, risky = clouds()
    head = ValueHead(16)
    head.fit(features, risky)
    head.calibrate(features[~risky], features[risky], false_positives=0.02)
    value = head(features)

    assert (value[risky] > 0).float().mean() > 0.9
    assert (value[risky] == 1).float().mean() > 0.6
    assert (value[~risky] > 0).float().mean() <= 0.02
    assert value[~risky].quantile(0.9) == 0.0
    assert bool(((value >= 0) & (value <= 1)).all())


def test_one_kind_of_requests_is_refused() -> None:
    """Nothing can be told apart from nothing."""
    with pytest.raises(ValueError, match="one kind is missing"):
        ValueHead(4).fit(torch.randn(5, 4), torch.ones(5, dtype=torch.bool))
