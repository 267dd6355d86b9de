"""Tests of orthogonal slices: orthonormal, separate and idempotent as projections."""

import pytest
import torch
from bem.composition import allocate_slices, largest_cosine, project, successive_slices
from hypothesis import given, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**31)


@settings(deadline=None)
@given(seed=seeds, sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_slices_are_orthonormal_and_mutually_orthogonal(seed: int, sizes: list[int]) -> None:
    """Cross-mission inner products stay below 1e-5."""
    slices = allocate_slices(48, {str(i): size for i, size in enumerate(sizes)}, seed)

    for name, q in slices.items():
        assert torch.allclose(q.T @ q, torch.eye(q.shape[1]), atol=1e-5)
        assert all(largest_cosine(q, other) < 1e-5 for key, other in slices.items() if key != name)


@settings(deadline=None)
@given(seed=seeds)
def test_projection_is_idempotent_and_separates_missions(seed: int) -> None:
    """Projecting twice changes nothing, and projected factors of two missions are orthogonal."""
    q, other = allocate_slices(24, {"a": 5, "b": 7}, seed).values()
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 24, 3, generator=generator)
    once = project(first, q)

    assert torch.allclose(project(once, q), once, atol=1e-5)
    inner = once.T @ project(second, other)
    assert inner.abs().max() < 1e-5 * max(1.0, float(first.norm() * second.norm()))


def test_largest_cosine_of_shared_and_tilted_directions() -> None:
    """A shared direction gives 1, a direction at 60 degrees 0.5."""
    e = torch.eye(3)
    tilted = 0.5 * e[:, :1] + 0.75**0.5 * e[:, 2:]

    assert largest_cosine(e[:, :2], e[:, 1:]) == pytest.approx(1)
    assert largest_cosine(e[:, :2], tilted) == pytest.approx(0.5)


def test_slices_that_do_not_fit_are_refused() -> None:
    """The error states sizes and width."""
    with pytest.raises(ValueError, match="width of 8"):
        allocate_slices(8, {"a": 5, "b": 4})
    with pytest.raises(ValueError, match="at least 1 dimension"):
        allocate_slices(8, {"a": 0})


@settings(deadline=None)
@given(seed=seeds)
def test_successive_slices_keep_the_first_and_separate_the_rest(seed: int) -> None:
    """The first factor stays; what a later one shares with it is gone, and nothing else."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 24, 3, generator=generator)
    inside = first @ torch.randn(3, 2, generator=generator)
    slices = successive_slices({"a": first, "b": second, "c": inside, "d": torch.zeros(24, 2)})

    assert torch.allclose(project(first, slices["a"]), first, atol=1e-5)
    left = project(second, slices["b"])
    assert float((first.T @ left).abs().max()) < 1e-4
    assert torch.allclose(project(second - left, slices["a"]), second - left, atol=1e-4)
    assert [q.shape[1] for q in slices.values()] == [3, 3, 0, 0]
