"""Learning of one condition's code."""

import pytest
import torch
from bem.online.learner import LearnerSettings
from bem.online.natural_gradient import StepSettings
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.services.online.code_learning import (
    CodeTeacher,
    Lesson,
    example_losses,
    mostly_better,
)

from tests.support.online_bank import FEATURE_LAYER
from tests.support.tiny_bank import WIDTH
from tests.unit.services.online.hosts import FAMILY, bank, example

MODEL = DecoderLikelihood(tiny_backbone(), bank().bank, feature_layer=FEATURE_LAYER)
EVENTS = [example(f"{n}-0", f"u{n}") for n in range(8)]


def teacher() -> CodeTeacher:
    """Return a teacher that has learned nothing."""
    settings = LearnerSettings(step=StepSettings(steps=3))
    return CodeTeacher(MODEL, bank(), settings, batch=8)


def lesson(known: int, new: int) -> Lesson:
    """Return a lesson with events that are known and events that are new."""
    first, later = EVENTS[:known], EVENTS[known : known + new]
    states = MODEL.states([one.prompt for one in first or later])
    live = torch.zeros(WIDTH)
    return Lesson(FAMILY, [first] if first else [], later, states, live)


def test_code_explains_feedback_better_out_of_sample() -> None:
    """Corrections that agree gain on users that the half did not see."""
    learned = teacher().teach(lesson(0, 8))

    assert list(learned.gains) == [one.event for one in EVENTS]
    assert min(learned.gains.values()) > 0
    assert learned.kept_loss == 0


def test_learner_made_anew_has_the_same_bits() -> None:
    """A code is a function of its batches, whether the process remembers them or not."""
    going_on = teacher()
    going_on.teach(lesson(0, 4))
    remembered = going_on.teach(lesson(4, 4))
    going_on.forget()
    anew = going_on.teach(lesson(4, 4))

    assert torch.equal(remembered.condition.code, anew.condition.code)
    assert remembered.gains == anew.gains
    assert remembered.kept_loss < 0  # the live code is the base model's


def test_loss_of_a_bad_reply_has_the_other_sign() -> None:
    """A version that makes a bad reply less likely gains."""
    code = torch.zeros(WIDTH)
    good, bad = example("1-0", "u"), example("2-0", "u", kind="bad")

    assert example_losses(MODEL, code, [good]) == -example_losses(MODEL, code, [bad])
    assert example_losses(MODEL, code, []).shape == (0,)


@pytest.mark.parametrize(
    ("gains", "shown"),
    [([0.1] * 8, True), ([0.1] * 7 + [-9.0], False), ([0.1] * 3, False), ([-1.0] * 20, False)],
)
def test_gains_are_counted_and_not_weighed(gains: list[float], shown: bool) -> None:
    """Eight of eight show it at one in sixteen; one loss among eight does not."""
    assert mostly_better(gains, 1 / 16) is shown
