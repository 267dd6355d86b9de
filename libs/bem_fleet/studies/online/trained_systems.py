"""Methods that train: learned codes with their ablations, and a LoRA fine-tuned on corrections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bem.backbone import Backbone
from bem.online.artifact import BankArtifact
from bem.online.codebook import Codebook
from bem.online.feedback import FeedbackExample
from bem.online.learner import LearnerSettings, OnlineLearner
from bem.training.activation_cache import encode_items, prompt_ids, tokenise
from bem.training.online.bank_trainer import BankTrainer, BankTraining
from bem.training.online.code_likelihood import DecoderLikelihood
from torch import Tensor

from bem_fleet.data.instruction_families import FamilyItem
from bem_fleet.studies.online.correction_stream import Correction
from bem_fleet.studies.online.correction_systems import StudyEngine


class LearnedCodes:
    """The online learner: one code and one condition for each family.

    Corrections come with their family, as the service's finder would name it.

    Args:
        name: Name in the report.
        engine: Engine that generates.
        model: Likelihoods of codes.
        artifact: Bank of the codes.
        settings: Settings of the learner.
        batch: Corrections of one update.
    """

    def __init__(
        self,
        name: str,
        engine: StudyEngine,
        model: DecoderLikelihood,
        artifact: BankArtifact,
        *,
        settings: LearnerSettings,
        batch: int,
    ) -> None:
        self.name = name
        self._engine, self._model, self._artifact, self._batch = engine, model, artifact, batch
        self._learner = OnlineLearner(model, artifact.empty_codebook(), artifact.start, settings)
        self._waiting: dict[str, list[FeedbackExample]] = {}
        self._count = 0

    @property
    def codebook(self) -> Codebook:
        """Conditions and codes that were learned so far."""
        return self._learner.codebook

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Learn each family's corrections as soon as a batch of them is there."""
        for one in corrections:
            waiting = self._waiting.setdefault(one.family, [])
            waiting.append(self._example(one))
            if len(waiting) == self._batch:
                self._learn_batch(waiting)
                waiting.clear()

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer with the code of the condition that a prompt meets."""
        return self._engine.texts(prompts, [self._adapter(one) for one in prompts])

    def conditions(self, prompts: Sequence[str]) -> list[str]:
        """Return the condition that each prompt meets; empty for none."""
        states = self._states([prompt_ids(self._engine.backbone, one) for one in prompts])
        met = [self._learner.codebook.match(one) for one in states]
        return [one.name if one else "" for one in met]

    def _adapter(self, prompt: str) -> str | None:
        (name,) = self.conditions([prompt])
        if not name:
            return None
        return self._engine.install(self._artifact, self._learner.codebook[name].code)

    def _states(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        return self._model.states(prompts)

    def _learn_batch(self, batch: list[FeedbackExample]) -> None:
        name = batch[0].condition
        if name not in self._learner.codebook:
            self._learner.open_condition(name, self._states([one.prompt for one in batch]))
        self._learner.learn(list(batch))

    def _example(self, one: Correction) -> FeedbackExample:
        self._count += 1
        prompt, reply = tokenise(self._engine.backbone, _as_item(one))
        return FeedbackExample(
            f"event-{self._count}", one.family, one.user, tuple(prompt), tuple(reply)
        )


@dataclass(frozen=True)
class LoraSize:
    """Size of a LoRA and of its training.

    Attributes:
        rank: Rank of each site.
        epochs: Passes over everything that was corrected.
        learning_rate: Peak rate.
        seed: Random seed.
    """

    rank: int
    epochs: int
    learning_rate: float = 2e-3
    seed: int = 0


class FineTunedLora:
    """A LoRA that is trained anew on all corrections so far: fine-tuning with a full replay.

    It is the bank's trainer with one family, at the same sites. It answers every prompt.

    Args:
        name: Name in the report.
        engine: Engine that generates.
        artifact: Bank whose card names base model and sites.
        size: Size of the LoRA.
        folder: Folder of the trainings.
    """

    def __init__(
        self, name: str, engine: StudyEngine, artifact: BankArtifact, size: LoraSize, folder: Path
    ) -> None:
        self.name = name
        self._engine, self._artifact, self._size, self._folder = engine, artifact, size, folder
        self._known: list[Correction] = []
        self._adapter: str | None = None

    def learn(self, corrections: Sequence[Correction]) -> None:
        """Keep the corrections; the next answers are of a LoRA that was trained on all."""
        self._known += corrections
        self._adapter = None

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Answer with the LoRA."""
        if self._adapter is None and self._known:
            self._adapter = self._train(self._engine.backbone)
        return self._engine.texts(prompts, self._adapter)

    def _train(self, backbone: Backbone) -> str:
        card, size = self._artifact.card, self._size
        config = BankTraining(
            layers=tuple(card.layers),
            kinds=tuple(card.kinds),
            rank=size.rank,
            epochs=size.epochs,
            batch=8,
            learning_rate=size.learning_rate,
            code_dropout=0.0,
            spread=0.0,
            seed=size.seed,
        )
        examples = encode_items(
            backbone,
            [_as_item(one) for one in self._known],
            first_layer=min(card.layers),
            feature_layer=card.feature_layer,
            max_tokens=backbone.context_tokens,
            folder=self._folder / "features",
        )
        trainer = BankTrainer(backbone, config, 1, self._folder / f"{len(self._known)}")
        trainer.run(examples, [0] * len(examples))
        made = replace(self._artifact, card=replace(card, rank=size.rank), bank=trainer.bank())
        return self._engine.install(made, trainer.table()[0])


def without_replay(settings: LearnerSettings) -> LearnerSettings:
    """Return settings of the learner without its replay buffer."""
    return replace(settings, replay=0.0)


def without_penalty(settings: LearnerSettings) -> LearnerSettings:
    """Return settings of the learner without consolidation."""
    return replace(settings, penalty=replace(settings.penalty, kind="none"))


def _as_item(one: Correction) -> FamilyItem:
    return FamilyItem(one.family, "", one.prompt, one.reply)
