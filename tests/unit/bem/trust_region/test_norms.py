"""Tests of the norms of summed low-rank updates, against the dense matrix."""

import pytest
import torch
from bem.trust_region import (
    LowRankDelta,
    frobenius_norm,
    spectral_norm,
    trust_region_scale,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_deltas import deltas

seeds = st.integers(0, 2**31)


@settings(deadline=None)
@given(seed=seeds, count=st.integers(1, 4))
def test_norms_equal_those_of_the_dense_matrix(seed: int, count: int) -> None:
    """Gram matrices give the norms of the sum without forming it."""
    some = deltas(seed, count)
    dense = torch.stack([delta.matrix() for delta in some]).sum(0).double()

    assert frobenius_norm(some) == pytest.approx(float(dense.norm()), rel=1e-4)
    expected = float(torch.linalg.matrix_norm(dense, ord=2))
    assert spectral_norm(some) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tau=st.floats(0.1, 500))
def test_scaling_happens_only_above_the_radius(seed: int, tau: float) -> None:
    """Inside the trust region nothing changes; outside the norm becomes the radius."""
    some = deltas(seed, 3)
    norm = frobenius_norm(some)
    factor = trust_region_scale(some, tau)

    assert factor == 1.0 if norm <= tau else factor < 1.0
    after = frobenius_norm([delta.scaled(factor) for delta in some])
    assert after == pytest.approx(min(norm, tau), rel=1e-6)


def test_worked_example_of_the_module_docstring() -> None:
    """The sum of both updates is diag(3, 4)."""
    e = torch.eye(2)
    first = LowRankDelta(3 * e[:1], e[:, :1], torch.ones(1))
    second = LowRankDelta(4 * e[1:], e[:, 1:], torch.ones(1))

    assert frobenius_norm([first, second]) == pytest.approx(5)
    assert spectral_norm([first, second]) == pytest.approx(4)
    assert trust_region_scale([first, second], 2) == pytest.approx(0.4)
    assert first.with_output(e[:, 1:]).matrix().tolist() == [[0, 0], [3, 0]]


def test_no_updates_have_no_norm_and_the_radius_is_positive() -> None:
    """An empty sum is zero; a radius of zero is refused."""
    assert frobenius_norm([]) == spectral_norm([]) == 0.0
    assert trust_region_scale([], 1) == 1.0
    with pytest.raises(ValueError, match="positive"):
        trust_region_scale([], 0)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tau=st.floats(0.1, 500))
def test_unscaled_updates_keep_their_size(seed: int, tau: float) -> None:
    """The others get the largest factor that the unscaled updates leave; none beyond the radius."""
    first, second, fixed = deltas(seed, 3)
    factor = trust_region_scale([first, second], tau, unscaled=[fixed])

    def norm(scale: float) -> float:
        return frobenius_norm([first.scaled(scale), second.scaled(scale), fixed])

    if frobenius_norm([fixed]) >= tau:
        assert factor == 0 or norm(1) <= tau
    else:
        assert norm(factor) <= tau * (1 + 1e-6)
        assert factor == 1 or norm(min(1.0, factor + 1e-3)) > tau
