"""Tests of the policy's features."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.features import EVIDENCE_WIDTH, Evidence, FeatureProjection, fit_projection


def test_evidence_measures_overlap_and_margin() -> None:
    """The sentence that shares most words with the question leads by the margin."""
    evidence = Evidence(
        ("Paris is the capital of France.", "Rome is old."), "capital of France?", memory=True
    )

    features = evidence.features()

    assert features.shape == (EVIDENCE_WIDTH,)
    assert features[0] == 1
    assert features[1] == 1
    assert features[6] == 1


def test_no_evidence_has_features_too() -> None:
    """A request without passages has overlap 0."""
    assert Evidence((), "").features()[0] == 0


def test_projected_training_states_are_white() -> None:
    """The components are uncorrelated and have unit variance."""
    torch.manual_seed(0)
    states = torch.randn(200, 6) * torch.tensor([5.0, 3.0, 1.0, 1.0, 0.5, 0.1])

    projection = fit_projection(states, 3)
    projected = (states - projection.mean) @ projection.axes

    assert torch.allclose(torch.cov(projected.T), torch.eye(3), atol=1e-3)
    assert projection.width == 3 + EVIDENCE_WIDTH


def test_a_state_far_away_is_clamped() -> None:
    """An odd prompt does not make features without bounds."""
    projection = FeatureProjection(torch.zeros(2), torch.eye(2))

    features = projection.features(torch.tensor([1e6, -1e6]), Evidence((), "q"))

    assert features[:2].tolist() == [4, -4]


def test_shapes_that_do_not_match_are_refused() -> None:
    """Mean and axes are of one width, and one state has no variance."""
    with pytest.raises(InvalidSettingError, match="projection"):
        FeatureProjection(torch.zeros(2), torch.zeros(3, 1))
    with pytest.raises(InvalidSettingError, match="projection"):
        fit_projection(torch.zeros(1, 3), 2)
