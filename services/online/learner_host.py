"""Learner host: everything that a loaded bank adds to a loaded model."""

from __future__ import annotations  # the typed stub exists in the stubs only

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bem.online.artifact import BANK_CARD, BankArtifact, read_bank
from bem.online.learner import LearnerSettings
from bem.online.natural_gradient import StepSettings
from bem.online.objective import ObjectiveSettings
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.feedback.consumer import FeedbackConsumer
from bem_fleet.feedback.event_store import EventStore
from bem_fleet.feedback.forgetting import Forgetter
from bem_fleet.services.online.answering import Answering
from bem_fleet.services.online.code_learning import CodeTeacher
from bem_fleet.services.online.family_finder import FamilyFinder, PromptKeys
from bem_fleet.services.online.feedback_examples import ExampleEncoder
from bem_fleet.services.online.learner_loop import LearnerLoop
from bem_fleet.services.online.learning import (
    LearnerParts,
    LearnerThread,
    Learning,
    LearningLimits,
)
from bem_fleet.services.online.served_codes import CodeAdapters
from bem_fleet.services.online.settings import OnlineSettings
from bem_fleet.services.online.version_gate import GateLimits
from bem_fleet.services.online.version_rollout import VersionRollout
from bem_fleet.services.online.version_store import VersionStore
from bem_fleet.services.online.version_watch import LikelihoodWatch


@dataclass(frozen=True)
class LearnerHost:
    """Learner of a process.

    Attributes:
        artifact: Bank that was read.
        rollout: Decisions about versions.
        events: Events of the feedback queue.
        keys: States of prompts.
        learning: Learns families of feedback.
        loop: Loop of the learner.
        stop: Ends the learner's thread and connections.
    """

    artifact: BankArtifact
    rollout: VersionRollout
    events: EventStore
    keys: PromptKeys
    learning: Learning
    loop: LearnerLoop
    stop: Callable[[], Awaitable[None]]


def has_bank(settings: OnlineSettings) -> bool:
    """Return whether the folder of the settings has a bank."""
    return (settings.bank / BANK_CARD).is_file()


def open_learner(answering: Answering, settings: OnlineSettings) -> LearnerHost:
    """Return the learner of a loaded model; blocks while the bank is read.

    Raises:
        ArtifactFormatError: The bank is malformed.
        ArtifactTamperedError: The bank was edited.
        BaseMismatchError: The bank belongs to another base model.
    """
    backbone = answering.engine.backbone
    artifact = read_bank(settings.bank, base_digest=backbone.digest)
    encoder = ExampleEncoder(backbone, answering.engine.context_tokens, hints=settings.hint > 0)
    keys = PromptKeys(answering.state, encoder.prompt, artifact.whitening)
    store, forgetter = VersionStore(settings.redis_url, artifact), Forgetter(settings.redis_url)
    adapters = CodeAdapters(answering.engine, artifact, settings.code_folder)
    rollout = VersionRollout(store, forgetter, answering, adapters)
    events = EventStore(settings.redis_url)
    finder = FamilyFinder(keys, artifact.unrelated, events)
    consumer = FeedbackConsumer(settings.redis_url, finder)
    thread = LearnerThread()
    model = DecoderLikelihood(backbone, artifact.bank, feature_layer=artifact.card.feature_layer)
    teacher = CodeTeacher(model, artifact, _learner_settings(settings), settings.batch_events)
    parts = LearnerParts(answering, keys, encoder, teacher, model, thread)
    learning = Learning(store, events, parts, _limits(settings))
    watch = LikelihoodWatch(settings.watch_answers)
    answering.observe = watch.observe

    def on_forgotten() -> None:
        finder.reset()
        keys.forget()
        learning.forget()

    async def stop() -> None:
        thread.close()
        for one in (consumer, events, forgetter, store):
            one.close()

    rollout.on_forgotten, rollout.on_promoted = on_forgotten, watch.promoted
    loop = LearnerLoop(rollout, learning, consumer, watch, settings.poll_s)
    return LearnerHost(artifact, rollout, events, keys, learning, loop, stop)


def _learner_settings(settings: OnlineSettings) -> LearnerSettings:
    return LearnerSettings(
        seed=settings.seed,
        step=StepSettings(steps=settings.steps),
        objective=ObjectiveSettings(hint=settings.hint),
    )


def _limits(settings: OnlineSettings) -> LearningLimits:
    return LearningLimits(
        settings.quorum,
        settings.update_events,
        settings.suite_prompts,
        GateLimits(settings.alpha, settings.max_divergence, settings.least_radius),
    )
