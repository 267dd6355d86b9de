"""Tests of the conjugate gradient."""

import torch
from bem.policy.conjugate_gradient import conjugate_gradient


def test_a_regular_system_is_solved() -> None:
    """N iterations solve a system of n unknowns."""
    torch.manual_seed(0)
    root = torch.randn(8, 8, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(8, dtype=torch.float64)
    target = torch.randn(8, dtype=torch.float64)

    found = conjugate_gradient(
        lambda vector: matrix @ vector, target, iterations=16, tolerance=1e-20
    )

    assert torch.allclose(found, torch.linalg.solve(matrix, target))


def test_a_singular_system_is_solved_within_its_range() -> None:
    """The solution has no part in the null space: it is that of least norm."""
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    target = torch.tensor([4.0, 3.0, 0.0], dtype=torch.float64)

    found = conjugate_gradient(lambda vector: matrix @ vector, target)

    assert torch.allclose(found, torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64))


def test_a_target_of_zero_gives_zero() -> None:
    """No product is needed."""
    assert not conjugate_gradient(lambda vector: vector, torch.zeros(3)).any()
