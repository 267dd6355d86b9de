"""Loading of one process's part of a base model; no process reads the weights of another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

from bem.backbone import Backbone, freeze, load_model, load_tokenizer, prepare_folder
from bem.errors import BackboneNotFoundError
from bem.shard_group import ShardGroup
from bem.shard_layout import SUMMED_MODULES, check_divisible, shard_config, shard_slice

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_shards(source: str, shards: int, cache: Path) -> Path:
    """Check that a base model can be held by several processes, before any is started.

    Args:
        source: As ``bem.backbone.load_backbone`` takes it.
        shards: Number of processes.
        cache: Folder of de-quantised and downloaded models.

    Returns:
        The folder that the processes read.

    Raises:
        BackboneNotFoundError: There is no such model.
        UnsupportedBackboneError: The engine does not compute it, or it cannot be cut equally.
    """
    folder, name, _ = prepare_folder(source, cache)
    check_divisible(AutoConfig.from_pretrained(folder, local_files_only=True), shards, name)
    return folder


def load_shard(source: str, group: ShardGroup, cache: Path) -> Backbone:
    """Load this process's part of a base model, in float32.

    ``transformers`` computes the whole model with the parts too: the outputs of their output
    projections are summed, if all processes call their part at the same time.

    Args:
        source: As ``bem.backbone.load_backbone`` takes it.
        group: Processes that hold the model together.
        cache: Folder of de-quantised and downloaded models.

    Raises:
        BackboneNotFoundError: There is no such model, or its files are broken.
        UnsupportedBackboneError: The model cannot be served exactly by so many processes.
    """
    folder, name, digest = prepare_folder(source, cache)
    whole = AutoConfig.from_pretrained(folder, local_files_only=True)
    check_divisible(whole, group.size, name)
    own = shard_config(whole, group.size, group.rank)
    weights = _read_weights(folder, name, whole, group)
    loader = MODEL_FOR_CAUSAL_LM_MAPPING[type(own)]
    model = load_model(None, name, "float32", loader, config=own, state_dict=weights)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    for layer in model.model.layers:
        for module in (layer.self_attn, layer.mlp):
            _sum_outputs(module, group)
    tokenizer = load_tokenizer(folder, name, whole.vocab_size)
    backbone = freeze(model.to(group.device), tokenizer, name=name, digest=digest)
    return replace(backbone, shards=group)


def _sum_outputs(parent: Any, group: ShardGroup) -> None:
    for kind in SUMMED_MODULES:
        if (module := getattr(parent, kind, None)) is not None:
            module.register_forward_hook(lambda _module, _inputs, output: group.sum(output))


def _read_weights(folder: Path, name: str, config: Any, group: ShardGroup) -> dict[str, Tensor]:
    files = {_FILE}
    try:
        if (index := folder / _INDEX).is_file():
            files = set(json.loads(index.read_text())["weight_map"].values())
        weights: dict[str, Tensor] = {}
        for file in sorted(files):
            with safe_open(folder / file, "pt") as stored:
                for tensor in stored.keys():  # noqa: SIM118 - the file is no mapping
                    weights[tensor] = _read_part(stored, tensor, config, group)
    except (OSError, SafetensorError, ValueError, KeyError) as err:
        raise BackboneNotFoundError(
            f"backbone: the weights of {name} cannot be read in parts: {err}; restore {_FILE}, or "
            f"the files of {_INDEX}"
        ) from err
    return weights


def _read_part(stored: Any, tensor: str, config: Any, group: ShardGroup) -> Tensor:
    part = shard_slice(tensor, config, group.size, group.rank)
    if part is None:
        whole: Tensor = stored.get_tensor(tensor)
        return whole
    source = stored.get_slice(tensor)
    before = (slice(None),) * part.dim
    return torch.cat([source[(*before, slice(begin, end))] for begin, end in part.ranges], part.dim)
