"""Checkpoints of a training run: safetensors with the place and the plan, replaced atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "checkpoint.safetensors"


def write_checkpoint(
    folder: Path,
    plan: Mapping[str, Any],
    place: dict[str, int],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, Adam's state and ``place``; a half-written file is never seen."""
    tensors = {name: p.detach().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"adam.{key}/{name}"] = value
    scratch = folder / "checkpoint.new"
    about = {"place": json.dumps({**place, "plan": dict(plan)})}
    save_file(tensors, scratch, metadata=about)
    scratch.replace(folder / FILE)


def read_checkpoint(
    folder: Path,
    plan: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[str, int] | None:
    """Take up the checkpoint of ``plan`` and return its place; None where there is none.

    Raises:
        ValueError: The checkpoint belongs to another plan.
    """
    path = folder / FILE
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    place: dict[str, Any] = json.loads(header["__metadata__"]["place"])
    if place.pop("plan") != json.loads(json.dumps(dict(plan))):
        raise ValueError(f"{path.name} belongs to another plan; remove {folder} first")
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            # A head that this level of control does not use has no state.
            state = {
                key: tensors[f"adam.{key}/{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}/{name}" in tensors
            }
            if state:
                optimizer.state[parameter] = state
    return place


def keep_lines(curve: Path, count: int) -> None:
    """Drop what a run wrote after its last checkpoint; it is trained, and written, again."""
    if not curve.exists():
        return
    lines = curve.read_text().splitlines(keepends=True)
    if len(lines) > count:
        scratch = curve.with_suffix(".new")
        scratch.write_text("".join(lines[:count]))
        scratch.replace(curve)
