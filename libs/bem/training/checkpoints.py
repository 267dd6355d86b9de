"""Checkpoints of a training run: safetensors files that are replaced atomically."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bem.errors import ArtifactFormatError

CHECKPOINT_FILE = "checkpoint.safetensors"


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    position: Mapping[str, float],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, optimiser state and position; the file is never partially visible.

    Args:
        folder: Folder of the run.
        config: Training configuration that the checkpoint belongs to.
        position: Counters and other numbers that say where the run continues.
        parameters: Trained parameters by name.
        optimizer: AdamW over these parameters.
    """
    tensors = {name: p.detach().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"adam.{key}/{name}"] = value
    partial = folder / "checkpoint.new"
    metadata = {"place": json.dumps({**position, "plan": dict(config)})}
    save_file(tensors, partial, metadata=metadata)
    partial.replace(folder / CHECKPOINT_FILE)


def read_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Restore the checkpoint of ``config`` and return its position; None without a checkpoint.

    Args:
        folder: Folder of the run.
        config: Training configuration that the checkpoint must belong to.
        parameters: Parameters to overwrite, by name.
        optimizer: AdamW over these parameters; its state is overwritten.

    Raises:
        ArtifactFormatError: The checkpoint is truncated or lacks tensors.
        ValueError: The checkpoint belongs to another configuration.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    position, tensors = _read_file(path, parameters)
    # The configuration went through JSON once, which turns tuples into lists.
    if position.pop("plan") != json.loads(json.dumps(dict(config))):
        raise ValueError(
            f"{path.name}: it belongs to another training configuration; remove {folder} first"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            # Adam has no state for a head that this level of control does not use.
            state = {
                key: tensors[f"adam.{key}/{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}/{name}" in tensors
            }
            if state:
                optimizer.state[parameter] = state
    return position


class EpochCheckpoints:
    """Writes and resumes a trainer's place in its epochs, beside parameters and optimiser state.

    Attributes:
        folder: Folder of the run, with the checkpoint and the curve ``curve.jsonl``.
        config: Training configuration, a dataclass; a checkpoint belongs to one.
        parameters: Trained parameters by name.
        optimizer: AdamW over these parameters.
        epoch: Number of complete epochs.
        step: Number of steps taken.
    """

    folder: Path
    config: Any
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    def __init__(self) -> None:
        self.epoch = self.step = self._steps_in_epoch = 0

    def _checkpoint(self) -> None:
        position = {"epoch": self.epoch, "step": self.step, "done_in_epoch": self._steps_in_epoch}
        write_checkpoint(
            self.folder, asdict(self.config), position, self.parameters, self.optimizer
        )

    def _resume(self) -> None:
        position = read_checkpoint(
            self.folder, asdict(self.config), self.parameters, self.optimizer
        )
        if position is not None:
            self.epoch, self.step = position["epoch"], position["step"]
            self._steps_in_epoch = position["done_in_epoch"]
        truncate_curve(self.folder / "curve.jsonl", self.step)


def _read_file(
    path: Path, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return position and tensors; every parameter has its tensor, of its shape."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        position: dict[str, Any] = json.loads(header["__metadata__"]["place"])
        tensors = load_file(path)
    # A file that ends too early fails in one of these ways, by the place where it ends.
    except (SafetensorError, ValueError, LookupError, TypeError, OverflowError, OSError) as err:
        raise ArtifactFormatError(
            f"{path.name}: it is truncated or no checkpoint; remove {path.parent} to train anew"
        ) from err
    wrong = [
        name
        for name, parameter in parameters.items()
        if name not in tensors or tensors[name].shape != parameter.shape
    ]
    if wrong:
        raise ArtifactFormatError(
            f"{path.name}: it lacks {wrong[0]} of this model; remove {path.parent} to train anew"
        )
    return position, tensors


def truncate_curve(curve: Path, steps: int) -> None:
    """Keep the first ``steps`` lines of a curve; later steps are trained and written again."""
    if not curve.exists():
        return
    lines = curve.read_text().splitlines(keepends=True)
    if len(lines) > steps:
        partial = curve.with_suffix(".new")
        partial.write_text("".join(lines[:steps]))
        partial.replace(curve)
