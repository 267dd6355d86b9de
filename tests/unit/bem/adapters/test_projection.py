"""Tests of the projection outside a reserved subspace."""

import torch
from bem.adapters.projection import project_outside

Q = torch.eye(4)[:, :2]
A = torch.ones(1, 3)


def test_reserved_directions_are_removed() -> None:
    """Only the rest of the output factor stays; the input factor is untouched."""
    a, b = project_outside({"s": (A, torch.tensor([[1.0], [2], [3], [4]]))}, {"s": Q})["s"]

    assert a is A
    assert b.squeeze(1).tolist() == [0, 0, 3, 4]


def test_factors_outside_stay_bit_for_bit() -> None:
    """Rounding along the basis is not subtracted, and other sites are left alone."""
    b = torch.tensor([[1e-7], [0], [3], [4]])
    found = project_outside({"s": (A, b), "t": (A, b + 1)}, {"s": Q})

    assert torch.equal(found["s"][1], b)
    assert torch.equal(found["t"][1], b + 1)
