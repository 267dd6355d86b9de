"""Trainer of the surface front: matching at a middle layer, then prediction at full depth.

The first stage asks the states of a scrambled view for the teacher's behind the matched layer, so
that neither the upper layers nor the head are computed. The second asks the predictions for the
teacher's (self-teaching, arXiv 2204.00716) and keeps the matching as a weak term. The teacher is
frozen and its states are fixed targets, so that nothing can collapse: no variance term is needed.
The objective ``augmentation`` is the baseline: cross entropy of the clean text's next tokens.

Every draw follows from the seed and the number of the step: a run that was killed goes on with the
same losses.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as f
from tqdm import tqdm

from bem.backbone import Backbone
from bem.errors import InvalidSettingError
from bem.sep.curriculum import Curriculum
from bem.sep.divergences import TruncatedTeacher, truncated_kl
from bem.sep.invariance import layer_matching
from bem.sep.surface_front import FrontFactors, fresh_factors
from bem.training.checkpoints import read_checkpoint, truncate_curve, write_checkpoint
from bem.training.decoder import TrainingDecoder
from bem.training.sep.front_views import (
    DrawView,
    TaughtText,
    ViewBatch,
    batch_views,
    clean_view,
)
from bem.training.trainer import warmup_cosine

OBJECTIVES = ("self_teaching", "augmentation")
_CURVE_FILE = "curve.jsonl"


@dataclass(frozen=True)
class FrontTraining:
    """Hyperparameters of a front.

    Attributes:
        objective: ``self_teaching``, or ``augmentation`` for the baseline.
        layers: Number of the lowest decoder layers that the front changes.
        rank: Rank of the factors.
        scale: Factor s of the low-rank products.
        matched_layer: Number of layers behind which states are matched, at least ``layers``.
        matching_steps: Steps of the first stage; 0 for the baseline.
        prediction_steps: Steps of the second stage.
        matching_weight: Weight of the matching in the second stage.
        batch: Texts of a step.
        clean_share: Share of the texts that are not scrambled, which holds the clean quality.
        predictions: Most places of a step whose next token is predicted.
        curriculum: Share of the places that scrambles change, over the run.
        learning_rate: Peak of the schedule: 5 % warm-up, then a cosine to 0.
        clip: Largest gradient norm.
        seed: Seed of factors, order, scrambles and places.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    objective: str = "self_teaching"
    layers: int = 8
    rank: int = 16
    scale: float = 2.0
    matched_layer: int = 12
    matching_steps: int = 200
    prediction_steps: int = 60
    matching_weight: float = 0.1
    batch: int = 8
    clean_share: float = 0.25
    predictions: int = 256
    curriculum: Curriculum = field(default_factory=lambda: Curriculum(0.05, 0.3, 0.6))
    learning_rate: float = 2e-3
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InvalidSettingError(
                f"objective: {self.objective!r}; one of {', '.join(OBJECTIVES)}"
            )
        if self.objective == "augmentation" and self.matching_steps:
            raise InvalidSettingError(
                f"matching_steps: {self.matching_steps}; augmentation has no teacher, set 0"
            )
        if self.steps < 1 or min(self.matching_steps, self.prediction_steps) < 0:
            raise InvalidSettingError(
                f"steps: {self.matching_steps} and {self.prediction_steps}; at least 0 each, and "
                "one in all"
            )
        if not 1 <= self.layers <= self.matched_layer:
            raise InvalidSettingError(
                f"layers: {self.layers}; 1 to matched_layer, {self.matched_layer}"
            )

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.matching_steps + self.prediction_steps


class FrontTrainer:
    """Trains one front and writes checkpoints and ``curve.jsonl``; the backbone is never changed.

    Args:
        backbone: A Llama-like model.
        decoder: Training decoder of it.
        config: Hyperparameters; a checkpoint belongs to one configuration.
        folder: Folder of checkpoints and curve.
        save_steps: Steps between checkpoints.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: TrainingDecoder,
        config: FrontTraining,
        folder: Path,
        *,
        save_steps: int = 20,
    ) -> None:
        self.decoder, self.config, self.folder = decoder, config, folder
        self.save_steps, self.step, self.cpu_seconds = save_steps, 0, 0.0
        self.factors = fresh_factors(backbone, range(config.layers), config.rank, config.seed)
        self.parameters: dict[str, nn.Parameter] = {}
        for path, (a, b) in self.factors.items():
            self.parameters |= {f"{path}.A": nn.Parameter(a), f"{path}.B": nn.Parameter(b)}
        self.factors = {
            path: (self.parameters[f"{path}.A"], self.parameters[f"{path}.B"])
            for path in self.factors
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=0.01)
        self._spread: tuple[Tensor, Tensor] | None = None

    def run(
        self, texts: Sequence[TaughtText], draw: DrawView, *, stop_step: int | None = None
    ) -> FrontFactors:
        """Train from the last checkpoint to the end and return the factors.

        Args:
            texts: Clean texts, at least one batch.
            draw: Draws scrambled views of them.
            stop_step: Step after which the run stops, for a limited time; the schedule is that of
                the whole run. None for its end.

        Raises:
            InvalidSettingError: There are fewer texts than a batch has.
            ValueError: The checkpoint in the folder belongs to another configuration.
        """
        if len(texts) < self.config.batch:
            raise InvalidSettingError(
                f"texts: {len(texts)}; at least one batch, {self.config.batch}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        steps = min(stop_step or self.config.steps, self.config.steps)
        with tqdm(total=steps, initial=self.step, unit="step", disable=None) as bar:
            while self.step < steps:
                bar.set_postfix(loss=f"{self.train_step(texts, draw):.3f}")
                bar.update()
                if self.step % self.save_steps == 0:
                    self._checkpoint()
        self._checkpoint()
        return {path: (a.detach(), b.detach()) for path, (a, b) in self.factors.items()}

    def train_step(self, texts: Sequence[TaughtText], draw: DrawView) -> float:
        """Take one step, write it to the curve and return the loss before it."""
        began, config = time.process_time(), self.config
        is_matching = self.step < config.matching_steps
        rate = config.learning_rate * warmup_cosine(self.step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(texts, draw)
        terms = self._matching(texts, batch) if is_matching else self._prediction(texts, batch)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.cpu_seconds += time.process_time() - began
        line = {
            "step": self.step,
            **{name: term.item() for name, term in terms.items()},
            "gradient_norm": norm.item(),
            "tokens": len(batch.ids),
            "cpu_seconds": self.cpu_seconds,
        }
        with (self.folder / _CURVE_FILE).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return loss.item()

    def _batch(self, texts: Sequence[TaughtText], draw: DrawView) -> ViewBatch:
        """Return the views of this step, which follow from the seed and the step."""
        config = self.config
        rng = random.Random(config.seed * 1_000_003 + self.step)  # noqa: S311 - an order, no secret
        numbers = rng.sample(range(len(texts)), config.batch)
        rate = config.curriculum.rate(self.step / config.steps)
        views = [
            clean_view(texts[number])
            if rng.random() < config.clean_share
            else draw(number, rate, rng.randrange(2**31))
            for number in numbers
        ]
        return batch_views([texts[number] for number in numbers], views)

    def _matching(self, texts: Sequence[TaughtText], batch: ViewBatch) -> dict[str, Tensor]:
        states = self._lower(batch)[batch.places]
        return {"matching": self._distance(texts, batch, states)}

    def _prediction(self, texts: Sequence[TaughtText], batch: ViewBatch) -> dict[str, Tensor]:
        config = self.config
        states = self._lower(batch)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        with_next = (batch.labels >= 0).nonzero().squeeze(1)
        order = torch.randperm(len(with_next), generator=generator)[: config.predictions]
        chosen = with_next[order.sort().values]
        last = self.decoder.run_layers(
            states,
            batch.lengths,
            layers=range(config.matched_layer, self.decoder.depth),
            positions=batch.places[chosen],
        )
        logits = self.decoder.logits(last)
        if config.objective == "augmentation":
            return {"cross_entropy": f.cross_entropy(logits, batch.labels[chosen])}
        teacher = TruncatedTeacher(
            batch.teacher.ids[chosen], batch.teacher.log_probabilities[chosen]
        )
        matching = self._distance(texts, batch, states[batch.places])
        return {
            "divergence": truncated_kl(logits, teacher),
            "weighted_matching": config.matching_weight * matching,
        }

    def _lower(self, batch: ViewBatch) -> Tensor:
        """Return the states behind the matched layer, ``[U, F]``."""
        return self.decoder.run_layers(
            self.decoder.embed(batch.ids),
            batch.lengths,
            layers=range(self.config.matched_layer),
            factors=self.factors,
            code=front_code(self.config.rank, self.config.scale),
        )

    def _distance(self, texts: Sequence[TaughtText], batch: ViewBatch, states: Tensor) -> Tensor:
        """Return the matching loss of standardised states; a few features are far larger."""
        if self._spread is None:
            sample = torch.cat([text.states for text in texts]).float()
            self._spread = sample.mean(0), sample.std(0).clamp(min=1e-3)
        mean, deviation = self._spread
        student, teacher = (((one - mean) / deviation)[None] for one in (states, batch.states))
        return layer_matching(student, teacher)

    def _checkpoint(self) -> None:
        position = {"step": self.step, "cpu_seconds": self.cpu_seconds}
        write_checkpoint(self.folder, self._plan(), position, self.parameters, self.optimizer)

    def _resume(self) -> None:
        position = read_checkpoint(self.folder, self._plan(), self.parameters, self.optimizer)
        if position is not None:
            self.step, self.cpu_seconds = position["step"], position["cpu_seconds"]
        truncate_curve(self.folder / _CURVE_FILE, self.step)

    def _plan(self) -> Mapping[str, object]:
        return asdict(self.config)


def front_code(rank: int, scale: float) -> Tensor:
    """Return the constant code of a front times its scale, ``[1, r]``."""
    return torch.full((1, rank), scale)
