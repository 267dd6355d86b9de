"""Signs that take a version back."""

import random

import torch
from bem.online.codebook import Condition
from bem.online.feedback import FeedbackExample
from bem_fleet.services.online.version_watch import LikelihoodWatch, regret

from tests.support.tiny_bank import WIDTH
from tests.unit.services.online.hosts import FAMILY, code, example
from tests.unit.services.online.test_code_learning import MODEL

CONDITION = Condition(FAMILY, torch.zeros(4), 1.0, torch.zeros(8))


def observe(watch: LikelihoodWatch, mean: float, count: int) -> None:
    """Observe answers of one likelihood with noise."""
    draw = random.Random(0)
    for _ in range(count):
        watch.observe(CONDITION, mean + draw.gauss(0, 0.1))


def test_fall_of_the_likelihood_is_an_alarm_once() -> None:
    """Answers that become less likely after a promotion; answers as before are none."""
    watch = LikelihoodWatch(2000)
    observe(watch, -0.5, 400)
    watch.promoted(FAMILY)
    observe(watch, -0.5, 400)
    before = watch.alarm()
    observe(watch, -2.0, 400)
    alarm = watch.alarm()

    assert before == ""
    assert alarm.startswith("drift: the likelihood of answers")
    assert watch.alarm() == ""


def test_rise_and_late_or_unwatched_falls_are_no_alarm() -> None:
    """Only a fall, only of the changed condition, only while the version is new."""
    for changed, mean, limit in ((FAMILY, 0.5, 2000), ("other", -2.0, 2000), (FAMILY, -2.0, 10)):
        watch = LikelihoodWatch(limit)
        observe(watch, -0.5, 400)
        watch.promoted(changed)
        observe(watch, mean, 400)
        assert watch.alarm() == ""


def test_later_feedback_that_prefers_the_parent_speaks_against_a_version() -> None:
    """One or two do not show it, and feedback that prefers the version never does."""
    zero = torch.zeros(WIDTH)
    later = [example(f"{n}-0", f"u{n}") for n in range(10)]
    worse, better = sorted((zero, code()), key=lambda one: -_loss(one, later))

    assert regret(MODEL, worse, better, later).startswith("feedback: its parent explains")
    assert regret(MODEL, worse, better, later[:2]) == ""
    assert regret(MODEL, better, worse, later) == ""
    assert regret(MODEL, worse, better, []) == ""


def _loss(one: torch.Tensor, later: list[FeedbackExample]) -> float:
    found = MODEL.losses(one, later, [None] * len(later), gradients=False)
    return float(found.nll.sum())
