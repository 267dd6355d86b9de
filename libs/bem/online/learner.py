"""Online learner: feedback in, the next codebook out; deterministic for the same stream.

An update learns one batch of feedback for one condition. Its objective is the loss of the batch,
of as many replayed examples of the condition, and the consolidation penalty; natural-gradient
steps lower it. All random draws depend on the seed and the number of the update alone, so that a
learner that was restored in the middle of a stream ends with the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bem.errors import InvalidRequestError
from bem.online.codebook import Codebook, make_condition
from bem.online.consolidation import Consolidation, PenaltySettings
from bem.online.feedback import FeedbackExample
from bem.online.natural_gradient import Quadratic, StepSettings, take_steps
from bem.online.objective import CodeLikelihood, FeedbackObjective, ObjectiveSettings
from bem.online.replay import ReplayBuffer

_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class LearnerSettings:
    """Settings of the learner.

    Attributes:
        seed: Seed of the replay buffer and of the drawn replies.
        capacity: Most events of the replay buffer.
        replay: Replayed examples for each new one; 0 turns replay off.
        step: Settings of the natural-gradient steps.
        penalty: Settings of the consolidation penalty.
        objective: Weights of the losses.
    """

    seed: int = 0
    capacity: int = 2000
    replay: float = 1.0
    step: StepSettings = field(default_factory=StepSettings)
    penalty: PenaltySettings = field(default_factory=PenaltySettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)


@dataclass(frozen=True)
class UpdateReport:
    """Record of one update.

    Attributes:
        number: Number of the update, from 1.
        condition: Condition whose code changed.
        examples: Number of new examples.
        replayed: Number of replayed examples.
        before: Objective before the update, nats over the batch.
        after: Objective after it.
        steps: Number of steps that were taken.
        distance: Euclidean distance between the codes before and after.
    """

    number: int
    condition: str
    examples: int
    replayed: int
    before: float
    after: float
    steps: int
    distance: float


class OnlineLearner:
    """Learns codes of conditions from feedback; it is not thread-safe.

    Args:
        model: Model whose likelihoods depend on a code.
        codebook: First codebook.
        start: ``[P]`` code with which a new condition begins.
        settings: Settings of the learner.

    Attributes:
        codebook: Codebook after the last update.
        replay: Replay buffer.
        penalties: Consolidation penalty of each condition.
        updates: Number of updates so far.
    """

    def __init__(
        self,
        model: CodeLikelihood,
        codebook: Codebook,
        start: Tensor,
        settings: LearnerSettings | None = None,
    ) -> None:
        self.settings = settings or LearnerSettings()
        self.codebook, self.start = codebook, start.detach().float()
        self.replay = ReplayBuffer(self.settings.capacity, self.settings.seed)
        self.penalties = {
            one.name: Consolidation.around(one.code, self.settings.penalty)
            for one in codebook.conditions
        }
        self.events: dict[str, int] = {one.name: one.events for one in codebook.conditions}
        self.users: dict[str, set[str]] = {one.name: set() for one in codebook.conditions}
        self.updates = 0
        self._model = model

    def open_condition(self, name: str, states: Tensor) -> None:
        """Add a condition around the prompts of its first feedback, with the start code.

        Args:
            name: Unique name.
            states: ``[n, D]`` pooled states of the prompts, n at least 1.

        Raises:
            InvalidRequestError: The name is taken.
        """
        if name in self.codebook:
            raise InvalidRequestError("condition", f"{name!r} exists; use another name")
        keys = self.codebook.whitening.keys(states)
        made = make_condition(name, keys, self.start, self.codebook.settings)
        self.codebook = self.codebook.with_condition(made)
        self.penalties[name] = Consolidation.around(self.start, self.settings.penalty)
        self.events[name], self.users[name] = 0, set()

    def learn(self, batch: Sequence[FeedbackExample]) -> UpdateReport:
        """Learn a batch of new feedback of one condition and return the record of the update.

        Args:
            batch: Examples with one condition, at least 1, each event for the first time.

        Raises:
            InvalidRequestError: The batch is empty, has several conditions, repeats an event, or
                names a condition that is not open.
        """
        name = self._condition_of(batch)
        penalty = self.penalties[name]
        replayed = self.replay.draw(
            round(self.settings.replay * len(batch)),
            condition=name,
            without=[one.event for one in batch],
        )
        live = penalty.center
        weights = self.settings.objective
        objective = FeedbackObjective(self._model, [*batch, *replayed], live, weights)
        self.updates += 1
        seed = self.settings.seed + _SEED_STEP * self.updates

        def measure(code: Tensor) -> float:
            return objective.value(code) + penalty.value(code)

        def expand(code: Tensor) -> Quadratic:
            value, gradient = objective.gradient(code)
            curvature = objective.curvature(code, seed=seed) + penalty.curvature()
            gradient = gradient + penalty.gradient(code)
            return Quadratic(value + penalty.value(code), gradient, curvature)

        record = take_steps(live, expand, measure, self.settings.step)
        # Replayed examples were absorbed when they were new; a second time would count them double.
        fresh = FeedbackObjective(self._model, batch, live, weights)
        self.penalties[name] = penalty.absorb(record.code, fresh.curvature(record.code, seed=seed))
        self._remember(name, batch)
        return UpdateReport(
            number=self.updates,
            condition=name,
            examples=len(batch),
            replayed=len(replayed),
            before=record.before,
            after=record.after,
            steps=record.steps,
            distance=float(torch.linalg.vector_norm(record.code - live)),
        )

    def forget_user(self, user: str) -> int:
        """Remove a user's events from replay and from the counts; return the number of events.

        What the codes learned from them stays until the codes are learned again without them.
        """
        for users in self.users.values():
            users.discard(user)
        return self.replay.forget_user(user)

    def _remember(self, name: str, batch: Sequence[FeedbackExample]) -> None:
        for one in batch:
            self.replay.offer(one)
        self.events[name] += len(batch)
        self.users[name].update(one.user for one in batch)
        self.codebook = self.codebook.with_code(
            name,
            self.penalties[name].center,
            events=self.events[name],
            users=len(self.users[name]),
        )

    def _condition_of(self, batch: Sequence[FeedbackExample]) -> str:
        names = sorted({one.condition for one in batch})
        if len(names) != 1:
            raise InvalidRequestError(
                "batch", f"has the conditions {names}; an update learns exactly one"
            )
        if len({one.event for one in batch}) < len(batch):
            raise InvalidRequestError("batch", "repeats an event; send each once")
        if names[0] not in self.penalties:
            raise InvalidRequestError("condition", f"{names[0]!r} is not open; open it first")
        return names[0]
