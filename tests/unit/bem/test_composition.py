"""Identities of slices, trust region and their composition."""

import pytest
import torch
from bem.composition import allocate, compose, overlap, project
from bem.trust_region import Delta, frobenius, limit, spectral
from hypothesis import given, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**31)


def deltas(seed: int, count: int, width: int = 24, rank: int = 3) -> list[Delta]:
    """Random deltas of one layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        Delta(draw(rank, width), draw(width, rank), draw(rank), scale=0.5) for _ in range(count)
    ]


@given(seed=seeds, sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_slices_are_orthonormal_and_mutually_orthogonal(seed: int, sizes: list[int]) -> None:
    """Cross-mission inner products stay below 1e-5."""
    slices = allocate(48, {str(i): size for i, size in enumerate(sizes)}, seed)

    for name, q in slices.items():
        assert torch.allclose(q.T @ q, torch.eye(q.shape[1]), atol=1e-5)
        assert all(overlap(q, other) < 1e-5 for key, other in slices.items() if key != name)


@given(seed=seeds)
def test_projection_is_idempotent_and_separates_missions(seed: int) -> None:
    """Projecting twice changes nothing, and projected deltas of two missions are orthogonal."""
    q, other = allocate(24, {"a": 5, "b": 7}, seed).values()
    first, second = deltas(seed, 2)
    once = project(first.b, q)

    assert torch.allclose(project(once, q), once, atol=1e-5)
    inner = once.T @ project(second.b, other)
    assert inner.abs().max() < 1e-5 * max(1.0, float(first.b.norm() * second.b.norm()))


@given(seed=seeds, count=st.integers(1, 4))
def test_norms_equal_those_of_the_formed_matrix(seed: int, count: int) -> None:
    """Gram matrices give the norms of the sum without forming it."""
    some = deltas(seed, count)
    formed = torch.stack([delta.matrix() for delta in some]).sum(0).double()

    assert frobenius(some) == pytest.approx(float(formed.norm()), rel=1e-4)
    assert spectral(some) == pytest.approx(float(torch.linalg.matrix_norm(formed, ord=2)), rel=1e-3)


@settings(max_examples=50)
@given(seed=seeds, tau=st.floats(0.1, 500))
def test_scaling_happens_only_above_the_radius(seed: int, tau: float) -> None:
    """Inside the trust region nothing changes; outside the norm becomes the radius."""
    some = deltas(seed, 3)
    norm = frobenius(some)
    factor = limit(some, tau)

    assert factor == 1.0 if norm <= tau else factor < 1.0
    after = frobenius([delta.scaled(factor) for delta in some])
    assert after == pytest.approx(min(norm, tau), rel=1e-6)


@given(seed=seeds)
def test_composition_projects_and_limits(seed: int) -> None:
    """Every composed delta lies in its slice and their sum within the radius."""
    slices = allocate(24, {"a": 6, "b": 6, "c": 6}, seed)
    composed, factor = compose(dict(zip("abc", deltas(seed, 3), strict=True)), slices, tau=1.0)

    assert 0 < factor <= 1
    assert frobenius(list(composed.values())) <= 1 + 1e-6
    for mission, delta in composed.items():
        assert torch.allclose(project(delta.b, slices[mission]), delta.b, atol=1e-5)


def test_slices_that_do_not_fit_are_refused() -> None:
    """The error states sizes and width."""
    with pytest.raises(ValueError, match="width of 8"):
        allocate(8, {"a": 5, "b": 4})
    with pytest.raises(ValueError, match="positive"):
        limit([], 0)
