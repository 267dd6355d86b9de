"""Tests of the reserved safety subspace: orthonormal, and orthogonal to all other updates."""

import pytest
import torch
from bem.composition import largest_cosine
from bem.safety import basis_size, orthogonality, project_out, reserve_basis, slices_outside
from hypothesis import given, settings
from hypothesis import strategies as st

WIDTH = 48


def test_basis_is_orthonormal_and_depends_on_its_seed() -> None:
    """The same seed gives the same basis, another seed another one."""
    q = reserve_basis(WIDTH, 8, seed=3)

    assert torch.allclose(q.T @ q, torch.eye(8), atol=1e-6)
    assert torch.equal(q, reserve_basis(WIDTH, 8, seed=3))
    assert not torch.equal(q, reserve_basis(WIDTH, 8, seed=4))


def test_basis_is_orthogonal_to_committed_adapters() -> None:
    """The span of adapters that exist before the basis is left alone, to rounding."""
    adapters = [torch.randn(WIDTH, 5), torch.randn(WIDTH, 5)]
    q = reserve_basis(WIDTH, 8, seed=0, orthogonal_to=adapters)

    assert all(orthogonality(q, b) > 1 - 1e-5 for b in adapters)
    with pytest.raises(ValueError, match="does not fit beside 10"):
        reserve_basis(WIDTH, 40, seed=0, orthogonal_to=adapters)


def test_slices_of_missions_are_outside_the_basis() -> None:
    """Each mission's slice is orthogonal to the basis and to the others."""
    q = reserve_basis(WIDTH, 8, seed=1)
    slices = slices_outside(q, {"router": 10, "online": 12, "memory": 18})
    names = list(slices)

    assert all(orthogonality(q, one) > 1 - 1e-5 for one in slices.values())
    assert largest_cosine(slices[names[0]], slices[names[2]]) < 1e-5
    with pytest.raises(ValueError, match="do not fit"):
        slices_outside(q, {"router": 41})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 12), scale=st.floats(1e-3, 1e3))
def test_projected_delta_is_orthogonal_whatever_it_was(seed: int, rank: int, scale: float) -> None:
    """Projecting out is idempotent and leaves nothing along the basis."""
    generator = torch.Generator().manual_seed(seed)
    q = reserve_basis(WIDTH, 8, seed=seed)
    b = torch.randn(WIDTH, rank, generator=generator) * scale
    once = project_out(b, q)

    assert orthogonality(q, once) >= 1 - 1e-5
    assert torch.allclose(project_out(once, q), once, atol=1e-5 * scale)


def test_orthogonality_is_one_less_the_largest_cosine() -> None:
    """A shared direction gives 0, one at 45 degrees 1 minus its cosine, a zero factor 1."""
    q = torch.eye(4)[:, :2]

    assert orthogonality(q, torch.tensor([[2.0], [0], [0], [0]])) == pytest.approx(0)
    assert orthogonality(q, torch.tensor([[1.0], [0], [1], [0]])) == pytest.approx(1 - 0.5**0.5)
    assert orthogonality(q, torch.zeros(4, 3)) == 1.0


def test_size_is_scaled_to_the_width() -> None:
    """64 of 576 is a ninth of any width, and at least 1."""
    assert [basis_size(width) for width in (576, 2048, 32, 3)] == [64, 228, 4, 1]
    with pytest.raises(ValueError, match="1 to 576"):
        basis_size(576, 577)
