"""PEFT's LoRA folders: adapters from them, and back (LoRA: arXiv 2106.09685).

An adapter whose code never moves is a LoRA, and its folder says the same in either form. One whose
controller moves the code is a LoRA at code one to PEFT; its controller lies beside it, in files
that PEFT does not read, so that it comes back whole.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bem.adapters.artifact import CONTROLLER_PREFIX, Adapter, AdapterCard, save_adapter
from bem.adapters.site import KINDS
from bem.backbone import Backbone
from bem.controller import Controller
from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN, OWN_WEIGHTS = "bem.json", "bem.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<site>model\.layers\.(\d+)\.(.+))\.lora_(?P<factor>[AB])\.weight")
# What changes the step to something that two factors and a scale do not say.
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class Own:
    """What an adapter has beyond PEFT's form.

    Attributes:
        base_digest: Of the base model.
        feature_layer: Layer that the controller reads.
        weights_sha256: Of PEFT's weights that it belongs to.
        controller_sha256: Of the controller's file; empty where the code never moves.
    """

    base_digest: str
    feature_layer: int
    weights_sha256: str
    controller_sha256: str


def import_lora(
    folder: Path, out: Path, *, backbone: Backbone, name: str, feature_layer: int
) -> AdapterCard:
    """Write the LoRA in ``folder`` as an adapter into ``out``; returns its card.

    Args:
        folder: As ``PeftModel.save_pretrained`` writes it.
        out: Made if missing; an older adapter in it is replaced.
        backbone: The base that it is for.
        name: Of the adapter.
        feature_layer: Of the bank that it will be loaded into; what ``bem.json`` says wins.

    Raises:
        ArtifactFormatError: No LoRA, or one that adapts what adapters do not.
        ArtifactTamperedError: ``bem.json`` belongs to other weights.
        BaseMismatchError: It was exported for another base.
    """
    config = _json(folder / CONFIG)
    _check(folder, config)
    found = _factors(folder, config, backbone)
    own = _own(folder, backbone)
    rank = max(a.shape[0] for a, _ in found.values())
    controller = Controller(backbone.model.config.hidden_size, rank).state_dict()
    if own and own.controller_sha256:
        controller = load_file(folder / OWN_WEIGHTS)
    layers = sorted({int(site.split(".")[2]) for site in found})
    kinds = [kind for kind, path in KINDS.items() if any(site.endswith(path) for site in found)]
    tensors = {f"{CONTROLLER_PREFIX}{key}": tensor for key, tensor in controller.items()}
    for layer in layers:
        for kind in kinds:
            site = f"model.layers.{layer}.{KINDS[kind]}"
            a, b = found.get(site) or _nothing(backbone, site)
            tensors[f"{site}.A"] = _padded(a, 0, rank)
            tensors[f"{site}.B"] = _padded(b, 1, rank)
    card = AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=layers,
        kinds=kinds,
        rank=rank,
        scale=1.0,
        feature_layer=own.feature_layer if own else feature_layer,
        command=f"python -m bem.adapters import --name {name}",
        data_digest="",
        seed=0,
        metrics={"peft": {"weights_sha256": file_digest(folder / WEIGHTS)}},
    )
    return save_adapter(out, card, tensors)


def export_lora(adapter: Adapter, out: Path) -> bool:
    """Write an adapter as a folder that PEFT loads; tells whether PEFT's answers are the adapter's own.

    They are if its code never moves; else PEFT runs it at code one.

    Args:
        adapter: As read from its artifact.
        out: Made if missing.
    """
    card = adapter.card
    hidden, width = adapter.controller["inner.weight"].shape
    controller = Controller(width, card.rank, hidden)
    controller.load_state_dict(adapter.controller)
    constant = not (controller.code.weight.any() or controller.unsure.weight.any())
    code = torch.ones(card.rank)
    if constant:
        with torch.no_grad():
            code = controller.prefix(torch.zeros(1, width))[0]
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for site, (a, b) in adapter.factors.items():
        weights[f"{_PREFIX}{site}.lora_A.weight"] = a.contiguous()
        weights[f"{_PREFIX}{site}.lora_B.weight"] = (b * code).contiguous()
    (out / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    if not constant:
        (out / OWN_WEIGHTS).write_bytes(save(adapter.controller))
    own = Own(
        card.base_digest,
        card.feature_layer,
        file_digest(out / WEIGHTS),
        "" if constant else file_digest(out / OWN_WEIGHTS),
    )
    (out / OWN).write_text(json.dumps(vars(own), indent=2) + "\n")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": card.base_name,
        "r": card.rank,
        "lora_alpha": card.scale * card.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": card.kinds,
        "layers_to_transform": card.layers,
        "layers_pattern": "layers",
        "inference_mode": True,
    }
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return constant


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as err:
        raise ArtifactFormatError(f"{path.parent.name} has no {path.name}") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ArtifactFormatError(f"{path.parent.name}/{path.name} is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise ArtifactFormatError(f"{path.parent.name}/{path.name} is no JSON object")
    return found


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ArtifactFormatError(
            f"{folder.name} is {config.get('peft_type')!r} to PEFT; only LORA is an adapter"
        )
    used = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ArtifactFormatError(
            f"{folder.name} uses {', '.join(used)}, which adapters do not have"
        )


def _factors(
    folder: Path, config: Mapping[str, Any], backbone: Backbone
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ``{site: (A, B)}``, the scale taken into B.

    Raises:
        ArtifactFormatError: A tensor is of no site, or of another shape.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
    except (FileNotFoundError, SafetensorError) as err:
        raise ArtifactFormatError(f"{folder.name} has no readable {WEIGHTS}: {err}") from err
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        named = _TENSOR.fullmatch(key.removeprefix(_PREFIX))
        if named is None or named[3] not in KINDS.values():
            raise ArtifactFormatError(
                f"{folder.name} adapts {key}; adapters adapt {', '.join(KINDS.values())} alone, "
                "so that no key or value depends on a code"
            )
        halves.setdefault(named["site"], {})[named["factor"]] = tensor.float()
    if not halves:
        raise ArtifactFormatError(f"{folder.name}/{WEIGHTS} holds no LoRA")
    found = {}
    for site, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise ArtifactFormatError(f"{folder.name}: {site} does not have two fitting factors")
        layer = _layer(folder, backbone, site)
        wide = pair["B"].shape[0], pair["A"].shape[1]
        if wide != (layer.out_features, layer.in_features):
            raise ArtifactFormatError(
                f"{folder.name}: {site} is {wide}; {backbone.name} has "
                f"{(layer.out_features, layer.in_features)}"
            )
        found[site] = pair["A"], pair["B"] * _scale(config, site, pair["A"].shape[0])
    return found


def _layer(folder: Path, backbone: Backbone, site: str) -> Any:
    try:
        return backbone.model.get_submodule(site)
    except AttributeError as err:
        raise ArtifactFormatError(
            f"{folder.name} adapts {site}; {backbone.name} has {len(backbone.layers)} layers"
        ) from err


def _scale(config: Mapping[str, Any], site: str, rank: int) -> float:
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?{key}", site)),
        config.get("lora_alpha", rank),
    )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _own(folder: Path, backbone: Backbone) -> Own | None:
    if not (folder / OWN).is_file():
        return None
    try:
        own = Own(**_json(folder / OWN))
    except TypeError as err:
        raise ArtifactFormatError(f"{folder.name}/{OWN}: {err}") from err
    if own.base_digest != backbone.digest:
        raise BaseMismatchError(
            f"{folder.name} was exported for base {own.base_digest[:12]}; "
            f"loaded is {backbone.digest[:12]}"
        )
    stated = {WEIGHTS: own.weights_sha256, OWN_WEIGHTS: own.controller_sha256}
    for name, expected in stated.items():
        if expected and file_digest(folder / name) != expected:
            raise ArtifactTamperedError(
                f"{folder.name}/{name} is not what {OWN} belongs to; without {OWN} the factors "
                "alone are imported"
            )
    return own


def _nothing(backbone: Backbone, site: str) -> tuple[Tensor, Tensor]:
    layer = backbone.model.get_submodule(site)
    return torch.zeros(0, layer.in_features), torch.zeros(layer.out_features, 0)


def _padded(factor: Tensor, axis: int, rank: int) -> Tensor:
    missing = list(factor.shape)
    missing[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(missing)], axis)
