"""Tests of the kernels' self-test."""

import pytest
from bem.engine.native import PackedLinear
from bem.engine.native.self_test import self_test
from torch import Tensor

from tests.unit.bem.engine.native.kernels import library


def test_sound_kernels_pass() -> None:
    """The library of this source passes."""
    assert self_test(library()) == ""


def test_wrong_results_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose products are off is refused with the error's size."""
    forward = PackedLinear.forward

    def swapped(self: PackedLinear, x: Tensor) -> Tensor:
        return forward(self, x).flip(-1)

    monkeypatch.setattr(PackedLinear, "forward", swapped)
    assert self_test(library()).startswith("4 bits: relative error")
