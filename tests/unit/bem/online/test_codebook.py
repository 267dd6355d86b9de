"""Tests of the codebook of conditions."""

from dataclasses import replace

import pytest
import torch
from bem.errors import InvalidRequestError, InvalidSettingError
from bem.online.codebook import (
    MIN_SCALE,
    Codebook,
    CodebookSettings,
    Condition,
    Whitening,
    make_condition,
)
from torch import Tensor

WIDTH = 4
IDENTITY = Whitening(torch.zeros(WIDTH), torch.eye(WIDTH))
CODE = torch.ones(3)


def cluster(center: float, count: int = 20, seed: int = 0) -> Tensor:
    """Return keys around a point on the diagonal."""
    generator = torch.Generator().manual_seed(seed)
    return center + 0.3 * torch.randn(count, WIDTH, generator=generator)


def unrelated(count: int = 400) -> Tensor:
    """Return keys around the origin."""
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(9))


def codebook(*centers: float) -> Codebook:
    """Return a codebook with one condition at each center."""
    made = [make_condition(f"at {one:g}", cluster(one, seed=3), CODE) for one in centers]
    return Codebook(IDENTITY, unrelated(), made)


def test_prompts_meet_the_nearest_condition_or_none() -> None:
    """A prompt inside a ball meets its condition; an unrelated prompt meets none."""
    book = codebook(4.0, -4.0)

    matches = [book.match(state) for state in cluster(-4.0, seed=5)]
    assert sum(one is not None and one.name == "at -4" for one in matches) >= 18
    assert book.match(torch.zeros(WIDTH)) is None
    assert Codebook(IDENTITY, unrelated()).match(torch.zeros(WIDTH)) is None


def test_radius_is_the_border() -> None:
    """Just inside the radius the condition is met; at it and beyond it is not."""
    book = codebook(4.0)
    (one,) = book.conditions
    direction = torch.tensor([1.0, 0, 0, 0])

    assert one.radius == book.threshold * one.scale
    assert book.match(one.key + 0.999 * one.radius * direction) is not None
    assert book.match(one.key + 1.001 * one.radius * direction) is None


def test_false_activations_of_all_conditions_together_stay_within_the_error() -> None:
    """Conditions in the middle of unrelated prompts get a radius that lets 1 % of them in."""
    wide = [Condition(f"c{at}", unrelated()[at] + 0.2, 1.0, CODE) for at in range(5)]
    book = Codebook(IDENTITY, unrelated(), wide)

    inside = sum(book.match(key) is not None for key in unrelated())
    # 401 / 100 is 4: of the calibration prompts three lie strictly below the fourth distance.
    assert inside == 3
    assert book.threshold < book.settings.reach


def test_too_few_calibration_prompts_close_the_codebook() -> None:
    """With 50 unrelated prompts no radius can promise 1 %, so nothing is ever active."""
    book = Codebook(IDENTITY, unrelated(50), codebook(4.0).conditions)

    assert book.threshold == 0
    assert book.match(book.conditions[0].key) is None


def test_number_that_is_not_finite_meets_nothing() -> None:
    """A NaN in a state is no match."""
    assert codebook(4.0).match(torch.full((WIDTH,), torch.nan)) is None


def test_code_changes_and_balls_stay() -> None:
    """A new code leaves keys and radii as they were, and the older codebook untouched."""
    book = codebook(4.0, -4.0)
    changed = book.with_code("at 4", torch.zeros(3), events=9, users=5)

    assert changed["at 4"].code.tolist() == [0, 0, 0]
    assert (changed["at 4"].events, changed["at 4"].users) == (9, 5)
    assert book["at 4"].code.tolist() == [1, 1, 1]
    assert [one.radius for one in changed.conditions] == [one.radius for one in book.conditions]


def test_conditions_come_and_go_by_name() -> None:
    """Adding replaces a namesake; removing leaves the others."""
    book = codebook(4.0, -4.0)
    wider = book.with_condition(replace(book["at 4"], scale=9.0))

    assert [one.name for one in wider.conditions] == ["at -4", "at 4"]
    assert wider["at 4"].scale == 9
    assert [one.name for one in book.without("at 4").conditions] == ["at -4"]
    assert "at 4" in book
    assert "at 5" not in book
    with pytest.raises(InvalidRequestError, match="'at 5' is unknown"):
        book.without("at 5")


def test_equal_prompts_have_the_smallest_scale() -> None:
    """A condition of one repeated prompt has a ball all the same."""
    same = make_condition("one", torch.ones(8, WIDTH), CODE)

    assert same.scale == pytest.approx(MIN_SCALE)


def test_what_does_not_fit_is_refused() -> None:
    """Repeated names, keys of another width and settings out of range are errors."""
    one = codebook(4.0).conditions[0]
    with pytest.raises(InvalidSettingError, match="a name occurs twice"):
        Codebook(IDENTITY, unrelated(), [one, one])
    with pytest.raises(InvalidSettingError, match=r"\[N, 4\] is needed"):
        Codebook(IDENTITY, torch.zeros(5, 3))
    with pytest.raises(InvalidSettingError, match="reach is above 0"):
        CodebookSettings(reach=0)
