"""Tests of PCA whitening."""

import pytest
import torch
from bem.controller.whitening import whitening_axes
from bem.errors import InvalidSettingError


def test_whitened_states_have_unit_covariance() -> None:
    """Correlated states become uncorrelated components of unit variance and mean 0."""
    torch.manual_seed(0)
    states = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    mean, axes = whitening_axes(states, 4)
    keys = (states - mean) @ axes

    torch.testing.assert_close(keys.T.cov(), torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(keys.mean(0), torch.zeros(4), atol=1e-4, rtol=0)


def test_components_stop_at_the_rank() -> None:
    """States in a plane have two components, whatever number is asked for."""
    torch.manual_seed(0)
    _, axes = whitening_axes(torch.randn(50, 2) @ torch.randn(2, 6), 5)

    assert axes.shape == (6, 2)


def test_one_state_is_refused() -> None:
    """A single state has no variance."""
    with pytest.raises(InvalidSettingError, match="N of at least 2"):
        whitening_axes(torch.zeros(1, 4), 2)
