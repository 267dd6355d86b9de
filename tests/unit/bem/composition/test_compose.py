"""Tests of composition: every update in its slice, their sum within the trust region."""

import pytest
import torch
from bem.composition import allocate_slices, compose, project
from bem.trust_region import frobenius_norm
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_deltas import deltas


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_composition_projects_and_limits(seed: int) -> None:
    """Every composed update lies in its slice and their sum within the radius."""
    slices = allocate_slices(24, {"a": 6, "b": 6, "c": 6}, seed)
    composed, factor = compose(dict(zip("abc", deltas(seed, 3), strict=True)), slices, tau=1.0)

    assert 0 < factor <= 1
    assert frobenius_norm(list(composed.values())) <= 1 + 1e-6
    for mission, delta in composed.items():
        assert torch.allclose(project(delta.b, slices[mission]), delta.b, atol=1e-5)


def test_mission_without_a_slice_is_named() -> None:
    """An update of an unknown mission is an error, not an unprojected sum."""
    with pytest.raises(KeyError, match="b"):
        compose(dict(zip("ab", deltas(0, 2), strict=True)), allocate_slices(24, {"a": 6}), tau=1.0)
