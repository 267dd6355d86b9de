"""Tests of the value head: it separates classes and is exactly zero below its threshold."""

import pytest
import torch
from bem.safety import ValueHead


def separable_features() -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of 60 risky and 240 harmless requests that differ in one direction."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 16, generator=generator)
    risky = torch.arange(300) < 60
    features[risky, 3] += 6
    return features, risky


def test_fitted_head_finds_risk_and_calibration_bounds_false_alarms() -> None:
    """Nearly all risky requests get a value, at most the allowed share of the harmless."""
    features, risky = separable_features()
    head = ValueHead(16)
    head.fit(features, risky)
    with torch.no_grad():
        threshold = float(head.logit(features[~risky]).quantile(0.98, interpolation="higher"))
    head.calibrate(threshold, features[risky])
    value = head(features)

    assert float(head.threshold) == pytest.approx(threshold)
    assert (value[risky] > 0).float().mean() > 0.9
    assert (value[risky] == 1).float().mean() > 0.6
    assert (value[~risky] > 0).float().mean() <= 0.02
    assert value[~risky].quantile(0.9) == 0.0
    assert bool(((value >= 0) & (value <= 1)).all())


def test_ceiling_is_above_a_threshold_that_no_risk_reaches() -> None:
    """The ramp has a width; a quarter of the risky requests above the threshold gets less."""
    features, risky = separable_features()
    head = ValueHead(16)
    head.fit(features, risky)
    head.calibrate(1e3, features[risky])

    assert head.full == pytest.approx(1e3 + 0.5)
    head.calibrate(-1e3, features[risky])

    assert (head(features[risky]) < 1).float().mean() == pytest.approx(0.25)


def test_a_single_class_is_refused() -> None:
    """Fitting needs both classes."""
    with pytest.raises(ValueError, match="one class is missing"):
        ValueHead(4).fit(torch.randn(5, 4), torch.ones(5, dtype=torch.bool))


def test_value_ramps_from_threshold_to_full() -> None:
    """Zero up to the threshold, one from full on, linear between."""
    head = ValueHead(1)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
        head.threshold.fill_(2.0)
        head.full.fill_(4.0)

    assert head(torch.tensor([[-9.0], [2.0], [3.0], [4.0], [9.0]])).tolist() == [0, 0, 0.5, 1, 1]
