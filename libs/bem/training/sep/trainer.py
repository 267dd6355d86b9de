"""Trainer of the character model: one arm, resumable bit for bit from its checkpoint.

Every draw follows from the seed and the number of the step, and the checkpoint has parameters,
optimiser state and the position in the thaw: a run that was killed continues with the same losses.
"""

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bem.errors import InvalidSettingError
from bem.sep.arms import Arm
from bem.sep.character_model import CharacterModel, CharacterModelConfig
from bem.sep.curriculum import Curriculum
from bem.sep.divergences import CIPHER_FULL, CIPHER_START
from bem.sep.invariance import CipherAdversary
from bem.sep.thaw import ThawSettings, ThawState, observe_losses
from bem.training.checkpoints import read_checkpoint, truncate_curve, write_checkpoint
from bem.training.sep.objective import objective_terms, total_loss
from bem.training.sep.views import draw_texts, draw_views, step_generator
from bem.training.trainer import warmup_cosine

CLAMPS = ("none", "hard", "soft")
SOFT_RATE = 0.1
"""Learning rate of clamped groups under a soft clamp, as a share."""

PROBE_SYMBOLS = 8
"""Symbols whose images the cipher adversary predicts."""


@dataclass(frozen=True)
class CharacterTraining:
    """Hyperparameters of a run.

    Attributes:
        model: Size of the model.
        arm: Objective and views.
        characters: Characters processed in all, the same for every arm of a comparison.
        rows: Rows of a step, over all views; an even number.
        length: Characters of a row.
        learning_rate: Peak of the schedule: 5 % warm-up, then a cosine to 0.
        clip: Largest gradient norm.
        curriculum: Strength of fresh keys over the run; None for full strength.
        clamp: ``none`` trains all from the beginning; ``hard`` leaves groups as they are until the
            thaw opens them; ``soft`` trains them at a tenth of the rate until then.
        front: Blocks of the front, which trains from the beginning under a clamp.
        patience: Observations without improvement before a group is opened.
        least_gain: Smallest improvement of the observed loss that counts, nats.
        observe_steps: Steps between observations on development text.
        cipher_start: Position from which the divergence counts in part.
        cipher_full: Position from which it counts in full.
        seed: Seed of initialisation, texts, keys and embeddings.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    model: CharacterModelConfig
    arm: Arm
    characters: int
    rows: int = 32
    length: int = 512
    learning_rate: float = 1e-3
    clip: float = 1.0
    curriculum: Curriculum | None = None
    clamp: str = "none"
    front: int = 2
    patience: int = 4
    least_gain: float = 0.0
    observe_steps: int = 50
    cipher_start: int = CIPHER_START
    cipher_full: int = CIPHER_FULL
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2 or self.length < 1 or self.observe_steps < 1:
            raise InvalidSettingError(
                f"rows, length, observe_steps: {self.rows}, {self.length}, {self.observe_steps}; "
                "rows are even, and all are at least 1"
            )
        if (self.arm.variance or self.arm.covariance) and self.rows < 4:
            raise InvalidSettingError(
                f"rows: {self.rows}; at least 4, two of each view, so that codes have a variance"
            )
        if self.clamp not in CLAMPS or not 0 < self.front <= self.model.layers:
            raise InvalidSettingError(
                f"clamp, front: {self.clamp!r}, {self.front}; one of {', '.join(CLAMPS)}, and 1 to "
                f"{self.model.layers} blocks"
            )
        if self.steps < 1:
            raise InvalidSettingError(
                f"characters: {self.characters}; at least {self.rows * self.length}, one step"
            )

    @property
    def steps(self) -> int:
        """Steps of the run, from the characters processed."""
        return self.characters // (self.rows * self.length)


class CharacterTrainer:
    """Trains one character model and writes checkpoints and ``curve.jsonl``.

    Args:
        config: Hyperparameters; a checkpoint belongs to one configuration.
        folder: Folder of checkpoints and curve.
        initial: Trained parameters that the model starts from. A frozen copy of them is the
            teacher of the clean view. None for a random model, which is its own teacher.
        save_steps: Steps between checkpoints.
    """

    def __init__(
        self,
        config: CharacterTraining,
        folder: Path,
        *,
        initial: Mapping[str, Tensor] | None = None,
        save_steps: int = 200,
    ) -> None:
        self.config, self.folder, self.save_steps = config, folder, save_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = CharacterModel(config.model)
            alphabet = config.model.alphabet
            probes = torch.arange(1, min(PROBE_SYMBOLS + 1, alphabet))
            self.adversary = CipherAdversary(config.model.width, alphabet, probes)
        self.teacher: CharacterModel | None = None
        if initial is not None:
            self.model.load_state_dict(dict(initial))
            self.teacher = copy.deepcopy(self.model).requires_grad_(requires_grad=False)
        self.groups = self.model.parameter_groups(0 if config.clamp == "none" else config.front)
        self.thaw, self.step = ThawState(), 0
        self.thaw_settings = ThawSettings(len(self.groups), config.patience, config.least_gain)
        own = dict(self.model.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {f"model.{name}": p for name, p in own.items()}
        head = dict(self.adversary.named_parameters())
        self.parameters |= {f"adversary.{name}": p for name, p in head.items()}
        self.optimizer = torch.optim.AdamW(
            [
                *({"params": [own[name] for name in group]} for group in self.groups),
                {"params": list(head.values())},
            ],
            weight_decay=0.01,
        )

    def run(self, text: Tensor, development: Tensor) -> None:
        """Train from the last checkpoint to the end, or until the clean perplexity is too high.

        Args:
            text: Training text ``[N]`` int64, N above the length of a row; ids in [1, V).
            development: Text for observations ``[M]``, of the same kind.

        Raises:
            InvalidSettingError: A text is too short.
            ValueError: The checkpoint in the folder belongs to another configuration.
        """
        for name, one in (("text", text), ("development", development)):
            if len(one) <= self.config.length:
                raise InvalidSettingError(
                    f"{name}: {len(one)} characters; more than a row's {self.config.length}"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        with tqdm(total=self.config.steps, initial=self.step, unit="step", disable=None) as bar:
            while self.step < self.config.steps and not self.thaw.stopped:
                bar.set_postfix(loss=f"{self.train_step(text):.3f}")
                bar.update()
                if self.step % self.config.observe_steps == 0:
                    self.observe(development)
                if self.step % self.save_steps == 0:
                    self._checkpoint()
        self._checkpoint()

    def train_step(self, text: Tensor) -> float:
        """Take one step, write it to the curve, and return the cross entropy before it, nats."""
        began = time.perf_counter()
        self._set_rates()
        terms = self._terms(text, self.step, purpose=0)
        total_loss(self.config.arm, terms).backward()
        # A clamped group has no gradient; the norm is that of what trains.
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        line = {
            "step": self.step,
            **{name: term.item() for name, term in terms.items()},
            "gradient_norm": norm.item(),
            "opened": self.thaw.opened,
            "characters": self.step * self.config.rows * self.config.length,
            "seconds": time.perf_counter() - began,
        }
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return float(line["cross_entropy"])

    @torch.no_grad()
    def observe(self, development: Tensor) -> ThawState:
        """Measure the losses on fixed development views, and open a group on a plateau."""
        terms = self._terms(development, 0, purpose=2)
        clean = self._clean_loss(development)
        self.thaw = observe_losses(
            self.thaw,
            self.thaw_settings,
            loss=float(total_loss(self.config.arm, terms)),
            # A model from scratch has no clean quality to keep.
            clean_loss=clean if self.teacher is not None else 0.0,
        )
        return self.thaw

    def _terms(self, text: Tensor, step: int, purpose: int) -> dict[str, Tensor]:
        config = self.config
        generator = step_generator(config.seed, step, purpose)
        texts = draw_texts(text, config.rows // config.arm.views, config.length, generator)
        strength = 1.0
        if config.curriculum is not None and not purpose:  # observations are comparable
            strength = config.curriculum.strength(self.step / config.steps)
        views = draw_views(
            self.model,
            config.arm,
            texts,
            strength=strength,
            seed=config.seed,
            generator=generator,
        )
        return objective_terms(
            self.model,
            self.adversary,
            config.arm,
            views,
            weights=(config.cipher_start, config.cipher_full),
            teacher=self.teacher,
        )

    def _clean_loss(self, development: Tensor) -> float:
        generator = step_generator(self.config.seed, 0, purpose=3)
        texts = draw_texts(development, self.config.rows, self.config.length, generator)
        logits = self.model(texts[:, :-1]).logits
        return float(nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten()))

    def _set_rates(self) -> None:
        """Set the learning rate of each group, and which of them have gradients."""
        rate = self.config.learning_rate * warmup_cosine(self.step, self.config.steps)
        named = dict(self.model.named_parameters())
        for number, group in enumerate(self.optimizer.param_groups):
            is_clamped = self.thaw.opened <= number < len(self.groups)
            group["lr"] = rate * (SOFT_RATE if is_clamped else 1.0)
            if number < len(self.groups):
                for name in self.groups[number]:
                    named[name].requires_grad_(not (is_clamped and self.config.clamp == "hard"))

    def _checkpoint(self) -> None:
        position = {"step": self.step, **asdict(self.thaw)}
        write_checkpoint(
            self.folder, asdict(self.config), position, self.parameters, self.optimizer
        )

    def _resume(self) -> None:
        position = read_checkpoint(
            self.folder, asdict(self.config), self.parameters, self.optimizer
        )
        if position is not None:
            self.step = position.pop("step")
            self.thaw = ThawState(**position)
        truncate_curve(self.folder / "curve.jsonl", self.step)
