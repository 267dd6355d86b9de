"""Holm's correction."""

import gc

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.fwer import holm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

P = st.floats(0, 1)


def test_adjusted_values_are_those_of_the_definition() -> None:
    """Rank k of m is multiplied by m - k + 1, and never falls below the rank before it."""
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})

    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}


@given(st.lists(P, min_size=1, max_size=8), st.lists(P, min_size=1, max_size=60))
def test_further_claims_never_lower_an_adjusted_p_value(
    own: list[float], more: list[float]
) -> None:
    """Whatever joins the family, truisms with p = 0 included, dilutes nothing."""
    family = {f"own-{index}": p for index, p in enumerate(own)}
    alone = holm(family)
    together = holm({**family, **{f"more-{index}": p for index, p in enumerate(more)}})

    assert all(together[name] >= p - 1e-12 for name, p in alone.items())


@pytest.mark.parametrize(
    "p_values", [[0.3], [0.0, 0.0, 1.0], [0.02, 0.02, 0.02, 0.5], [0.9, 0.013, 0.4, 0.012, 0.011]]
)
def test_adjusted_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    """Ties, zeros and ones included."""
    adjusted = holm({str(index): p for index, p in enumerate(p_values)})
    _, expected, *_ = multipletests(p_values, method="holm")

    assert list(adjusted.values()) == pytest.approx(list(expected))


def test_correction_collects_no_garbage() -> None:
    """A service corrects once per claim; a collection of its whole heap takes too long for that."""
    collections = []

    def note(phase: str, info: dict[str, int]) -> None:
        collections.append((phase, info["generation"]))

    gc.disable()
    gc.callbacks.append(note)
    try:
        holm({"a": 0.01, "b": 0.04})
    finally:
        gc.callbacks.remove(note)
        gc.enable()

    assert collections == []


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(p: float) -> None:
    """The claim is named."""
    with pytest.raises(InvalidScoresError, match="'b'"):
        holm({"a": 0.5, "b": p})
