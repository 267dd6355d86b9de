"""Tests of the online learner on the tiny base model and on a softmax model."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from bem.errors import InvalidRequestError
from bem.online.consolidation import PENALTIES, PenaltySettings
from bem.online.feedback import FeedbackExample
from bem.online.learner import LearnerSettings, OnlineLearner, UpdateReport
from bem.online.natural_gradient import StepSettings
from bem.online.objective import ObjectiveSettings
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood

from tests.support.tiny_bank import WIDTH, tiny_bank, tiny_codebook, tiny_feedback
from tests.unit.bem.online.softmax_model import SoftmaxModel

STATES = torch.ones(8, 32) + 0.1 * torch.randn(8, 32, generator=torch.Generator().manual_seed(3))
SETTINGS = LearnerSettings(seed=7, capacity=8, step=StepSettings(steps=2, tries=3))


def tiny_learner(settings: LearnerSettings = SETTINGS) -> OnlineLearner:
    """Return a learner on the tiny model with one open condition."""
    model = DecoderLikelihood(tiny_backbone(), tiny_bank(), feature_layer=0)
    learner = OnlineLearner(model, tiny_codebook(), torch.zeros(WIDTH), settings)
    learner.open_condition("c", STATES)
    return learner


def softmax_learner(penalty: PenaltySettings) -> OnlineLearner:
    """Return a learner on the softmax model with one open condition."""
    settings = LearnerSettings(
        replay=0.0,
        penalty=penalty,
        step=StepSettings(steps=20),
        objective=ObjectiveSettings(draws=200),
    )
    learner = OnlineLearner(SoftmaxModel(), tiny_codebook(), torch.zeros(3), settings)
    learner.open_condition("c", STATES)
    return learner


def answers(prompt: int, words: Sequence[int], name: str) -> list[FeedbackExample]:
    """Return corrections of one prompt that do not agree, so that no likelihood reaches 1."""
    replies = [
        word for word, count in zip(words, (10, 5, 3, 1, 1), strict=True) for _ in range(count)
    ]
    return [
        FeedbackExample(f"{name}{at}", "c", f"u{at}", (prompt,), (word,))
        for at, word in enumerate(replies)
    ]


def stream(learner: OnlineLearner, first: int = 0, last: int = 3) -> list[UpdateReport]:
    """Learn batches of the tiny stream."""
    return [learner.learn(tiny_feedback(4, seed=at)) for at in range(first, last)]


@pytest.mark.slow
def test_same_stream_gives_the_same_codes() -> None:
    """Two learners end with the same bits and reports; another seed does not."""
    one, other = tiny_learner(), tiny_learner()
    reports = stream(one), stream(other)

    assert one.codebook["c"].code.equal(other.codebook["c"].code)
    assert one.penalties["c"].precision.equal(other.penalties["c"].precision)
    assert reports[0] == reports[1]
    elsewhere = tiny_learner(replace(SETTINGS, seed=8))
    stream(elsewhere)
    assert not elsewhere.codebook["c"].code.equal(one.codebook["c"].code)


def test_update_lowers_the_objective_and_changes_the_code_alone() -> None:
    """The report has the fall; factors, keys and radii stay as they were."""
    learner = tiny_learner()
    before = {path: a.clone() for path, (a, _) in tiny_bank().factors.items()}
    radius = learner.codebook["c"].radius
    (report,) = stream(learner, last=1)

    assert report.after < report.before
    assert report.distance > 0
    assert (report.number, report.examples, report.replayed) == (1, 4, 0)
    assert learner.codebook["c"].radius == radius
    assert (learner.codebook["c"].events, learner.codebook["c"].users) == (4, 4)
    assert all(a.equal(before[path]) for path, (a, _) in tiny_bank().factors.items())


def test_older_feedback_is_replayed() -> None:
    """From the second batch on, as many older events are learned again as there are new ones."""
    assert [one.replayed for one in stream(tiny_learner())] == [0, 4, 4]
    assert [one.replayed for one in stream(tiny_learner(replace(SETTINGS, replay=0.0)))] == [0] * 3


def test_full_fisher_keeps_what_earlier_feedback_taught() -> None:
    """Two batches in turn end near the code of both together; without a penalty far from it."""
    first, second = answers(0, (1, 0, 2, 3, 4), "a"), answers(2, (3, 4, 0, 1, 2), "b")
    together = softmax_learner(PenaltySettings(prior=0.1))
    together.learn([*first, *second])
    distances = {}
    for kind in PENALTIES:
        learner = softmax_learner(PenaltySettings(kind, prior=0.1))
        learner.learn(first)
        learner.learn(second)
        away = learner.penalties["c"].center - together.penalties["c"].center
        distances[kind] = float(away.norm())

    assert distances["full"] < 0.5 * min(distances["proximal"], distances["none"])


def test_forgotten_user_is_gone_from_replay_and_counts() -> None:
    """Neither the buffer nor the next codebook counts the user."""
    learner = tiny_learner()
    stream(learner, last=1)

    assert learner.forget_user("u1") == 1
    assert all(one.user != "u1" for one in learner.replay.examples())
    learner.learn([replace(tiny_feedback(1, seed=5)[0], user="u2")])
    assert learner.codebook["c"].users == 3


def test_bad_batches_are_refused() -> None:
    """Empty and mixed batches, repeated events and unknown conditions change nothing."""
    learner = tiny_learner()
    first, second = tiny_feedback(2)
    for batch, message in (
        ([], "conditions \\[\\]"),
        ([first, replace(second, condition="d")], "exactly one"),
        ([first, first], "repeats an event"),
        ([replace(first, condition="d")], "'d' is not open"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            learner.learn(batch)
    with pytest.raises(InvalidRequestError, match="'c' exists"):
        learner.open_condition("c", STATES)

    assert learner.updates == 0
    assert len(learner.replay) == 0
