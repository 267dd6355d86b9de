"""Code learning: the code of one condition as a function of its events, and evidence for it.

A code depends on the bank, the seed and the batches of events alone: a learner that is made anew
from the lineage of a version has the same bits. Evidence is out of sample: the users behind new
events are cut into two halves, each half is scored under a code that learned the other one only,
and a sequential test bets on how many events the new codes explain better than the live one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from bem.online import snapshot
from bem.online.artifact import BankArtifact
from bem.online.codebook import Condition
from bem.online.feedback import FeedbackExample
from bem.online.learner import LearnerSettings, OnlineLearner
from bem.online.objective import CodeLikelihood
from bem_fleet.services.online.version_record import Batches
from bem_fleet.stats.sequential import BettingTest
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a version learns.

    Attributes:
        condition: Condition that it changes.
        known: Batches of examples that the live code has learned.
        new: New examples, in the order of their events.
        states: ``[n, D]`` pooled states of the prompts around which the condition lies.
        live: ``[P]`` code of the live version; zeros for a new condition.
    """

    condition: str
    known: Sequence[Sequence[FeedbackExample]]
    new: Sequence[FeedbackExample]
    states: Tensor
    live: Tensor

    @property
    def batches(self) -> Batches:
        """Ids of all events in their batches, the new ones last."""
        return tuple(tuple(one.event for one in batch) for batch in (*self.known, self.new))


@dataclass(frozen=True, eq=False)
class Learned:
    """Result of a lesson.

    Attributes:
        condition: Condition with its new code.
        gains: Gain of each new event over the live version out of sample, nats a token, in the
            order of the events.
        kept_loss: Mean loss of the events that were known before, nats a token; below 0 is a gain.
    """

    condition: Condition
    gains: dict[str, float]
    kept_loss: float


def mostly_better(gains: Iterable[float], alpha: float) -> bool:
    """Return whether gains show at a level that most of them are above 0, at any look."""
    test = BettingTest(null=0.0, alpha=alpha)
    test.update(np.sign(np.asarray(list(gains))))
    return bool(test.rejected[0])


class CodeTeacher:
    """Learns the codes of conditions; it is not thread-safe and blocks for seconds to minutes.

    Args:
        model: Model whose likelihoods depend on a code.
        artifact: Bank of the codes.
        settings: Settings of the learners.
        batch: Most examples of one update.
    """

    def __init__(
        self,
        model: CodeLikelihood,
        artifact: BankArtifact,
        settings: LearnerSettings,
        batch: int,
    ) -> None:
        self._model, self._artifact, self._settings = model, artifact, settings
        self._batch = batch
        self._kept: dict[str, tuple[Batches, bytes]] = {}

    def teach(self, lesson: Lesson) -> Learned:
        """Learn new events of a condition, with the evidence for it.

        Args:
            lesson: What to learn; it has new examples of at least 2 users.
        """
        before = self._before(lesson)
        gains: dict[str, float] = {}
        for taught, scored in _crossed(lesson.new):
            code = self._continued(before, lesson.condition, taught).code
            differences = self._losses(lesson.live, scored) - self._losses(code, scored)
            gains |= {
                one.event: float(gain)
                for one, gain in zip(scored, differences.tolist(), strict=True)
            }
        learner = self._load(before)
        self._learn(learner, lesson.new)
        self._kept[lesson.condition] = lesson.batches, self._dump(learner)
        made = learner.codebook[lesson.condition]
        known = [one for batch in lesson.known for one in batch]
        after, live = (
            self._losses(made.code, known),
            self._losses(lesson.live, known),
        )
        return Learned(
            made,
            {one.event: gains[one.event] for one in lesson.new},
            float((after - live).mean()) if known else 0.0,
        )

    def forget(self) -> None:
        """Forget all learners; they are made anew from the lineage when they are needed."""
        self._kept.clear()

    def _before(self, lesson: Lesson) -> bytes:
        """Return the learner that has learned the known batches, as bytes."""
        known = lesson.batches[:-1]
        kept = self._kept.get(lesson.condition)
        if kept is not None and kept[0] == known:
            return kept[1]
        learner = OnlineLearner(
            self._model, self._artifact.empty_codebook(), self._artifact.start, self._settings
        )
        learner.open_condition(lesson.condition, lesson.states)
        for batch in lesson.known:
            self._learn(learner, batch)
        return self._dump(learner)

    def _continued(
        self, before: bytes, condition: str, examples: Sequence[FeedbackExample]
    ) -> Condition:
        learner = self._load(before)
        self._learn(learner, examples)
        return learner.codebook[condition]

    def _learn(self, learner: OnlineLearner, examples: Sequence[FeedbackExample]) -> None:
        for at in range(0, len(examples), self._batch):
            learner.learn(examples[at : at + self._batch])

    def _losses(self, code: Tensor, examples: Sequence[FeedbackExample]) -> Tensor:
        return example_losses(self._model, code, examples)

    def _dump(self, learner: OnlineLearner) -> bytes:
        return snapshot.dump(learner, self._artifact.card.sha256)

    def _load(self, content: bytes) -> OnlineLearner:
        book, bank = self._artifact.empty_codebook(), self._artifact.card.sha256
        return snapshot.load(content, self._model, book, bank)


def _crossed(
    examples: Sequence[FeedbackExample],
) -> list[tuple[list[FeedbackExample], list[FeedbackExample]]]:
    """Return both ways to learn one half and score the other; a user is in one half only."""
    users = sorted({one.user for one in examples}, key=_drawn)
    first = set(users[::2])
    halves = [
        [one for one in examples if one.user in first],
        [one for one in examples if one.user not in first],
    ]
    return [(halves[0], halves[1]), (halves[1], halves[0])]


def _drawn(user: str) -> bytes:
    return hashlib.sha256(user.encode()).digest()


def example_losses(
    model: CodeLikelihood, code: Tensor, examples: Sequence[FeedbackExample]
) -> Tensor:
    """Return the loss of each example, ``[N]`` float64 nats a token; of a bad reply its negative.

    Args:
        model: Model whose likelihoods depend on a code.
        code: ``[P]`` code.
        examples: Examples; none give an empty tensor.
    """
    if not examples:
        return torch.zeros(0, dtype=torch.float64)
    found = model.losses(code, examples, [None] * len(examples), gradients=False)
    signs = torch.tensor([-1.0 if one.kind == "bad" else 1.0 for one in examples]).double()
    return signs * found.nll / found.tokens
