"""Early stopping: evaluation after each epoch, the best tensors, and the end of a run without gain.

Losses and tensors lie beside the checkpoint: a run that resumes stops where an uninterrupted
one would have.
"""

import json
from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bem.training.activation_cache import EncodedExample
from bem.training.trainer import AdapterTrainer

LOSSES_FILE = "evaluation.jsonl"
BEST_FILE = "best.safetensors"


class EarlyStopping:
    """Evaluates a trainer and keeps its best tensors; called after each epoch.

    Args:
        trainer: Trainer that is evaluated.
        examples: Evaluation examples, none of them trained.
        patience: Epochs without a smaller loss after which training stops, at least 1.
    """

    def __init__(
        self, trainer: AdapterTrainer, examples: Sequence[EncodedExample], patience: int
    ) -> None:
        self._trainer, self._examples, self._patience = trainer, examples, patience

    def __call__(self) -> bool:
        """Evaluate the trainer after an epoch; return whether to stop."""
        epoch = self._trainer.epoch
        losses = [loss for _, loss in zip(range(epoch - 1), self.losses, strict=False)]
        with torch.no_grad():
            loss = self._trainer.mean_loss(self._examples).item()
        if not losses or loss < min(losses):
            partial = self._trainer.folder / f"{BEST_FILE}.new"
            tensors = {
                name: one.contiguous().clone() for name, one in self._trainer.tensors().items()
            }
            save_file(tensors, partial)
            partial.replace(self._trainer.folder / BEST_FILE)
        self._write([*losses, loss])
        return self.has_stopped

    @property
    def losses(self) -> list[float]:
        """Mean loss of the evaluation examples after each epoch, nats per token."""
        path = self._trainer.folder / LOSSES_FILE
        if not path.is_file():
            return []
        return [float(json.loads(line)["loss"]) for line in path.read_text().splitlines()]

    @property
    def best_epoch(self) -> int:
        """Epoch with the smallest loss, from 1; 0 before the first."""
        losses = self.losses
        return losses.index(min(losses)) + 1 if losses else 0

    @property
    def has_stopped(self) -> bool:
        """Whether the loss has not fallen for as many epochs as the patience allows."""
        return len(self.losses) - self.best_epoch >= self._patience

    def best_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the artifact after the best epoch.

        Raises:
            FileNotFoundError: No epoch was evaluated.
        """
        return load_file(self._trainer.folder / BEST_FILE)

    def _write(self, losses: Sequence[float]) -> None:
        lines = [
            json.dumps({"epoch": epoch, "loss": loss}) + "\n"
            for epoch, loss in enumerate(losses, start=1)
        ]
        partial = self._trainer.folder / f"{LOSSES_FILE}.new"
        partial.write_text("".join(lines))
        partial.replace(self._trainer.folder / LOSSES_FILE)
