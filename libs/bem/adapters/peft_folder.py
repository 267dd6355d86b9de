"""PEFT folder import and export: LoRA adapters (arXiv 2106.09685) from and for the peft library.

An adapter whose code is constant is a LoRA, and both forms compute the same outputs. An adapter
whose controller moves the code is, to PEFT, a LoRA with a code of ones; its controller lies in
files beside it that PEFT does not read, so a later import restores the whole adapter.

Example:
    PEFT computes ``y = W x + (lora_alpha / r) B (A x)``. A LoRA with ``r = 8`` and
    ``lora_alpha = 16`` becomes an adapter with ``scale = 1``: the factor 2 is multiplied into
    ``B``, because PEFT allows another ``alpha`` and rank for each module while an adapter has one
    scale. If ``o_proj`` has rank 2 there (``rank_pattern``), its factors are padded with zeros to
    rank 8. Export writes ``lora_alpha = scale * r``, so that a round trip computes the same.
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
from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.controller import Controller
from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEM_CONFIG, BEM_WEIGHTS = "bem.json", "bem.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<site>model\.layers\.(\d+)\.(.+))\.lora_(?P<factor>[AB])\.weight")
# Options with which the update is no longer a product of two factors and a scale.
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class BemConfig:
    """Content of ``bem.json``: what PEFT's own files cannot express.

    Attributes:
        base_digest: SHA-256 of the base model's source.
        feature_layer: Decoder layer whose output the controller reads.
        weights_sha256: SHA-256 of the PEFT weights that the controller belongs to.
        controller_sha256: SHA-256 of the controller file; empty if the code is constant.
    """

    base_digest: str
    feature_layer: int
    weights_sha256: str
    controller_sha256: str


def import_lora(
    folder: Path, out: Path, *, backbone: Backbone, name: str, feature_layer: int
) -> AdapterCard:
    """Write the LoRA in ``folder`` as an adapter into ``out`` and return its card.

    Args:
        folder: Folder written by ``PeftModel.save_pretrained``.
        out: Created if missing; an older adapter in it is replaced.
        backbone: Base model that the LoRA was trained for.
        name: Name of the adapter.
        feature_layer: Feature layer of the bank that will load the adapter; a feature layer in
            ``bem.json`` takes precedence.

    Raises:
        ArtifactFormatError: The folder is no LoRA, or adapts modules that adapters cannot.
        ArtifactTamperedError: ``bem.json`` belongs to other weights.
        BaseMismatchError: The folder was exported for another base model.
    """
    config = _read_json(folder / CONFIG)
    _check_config(folder, config)
    factors = _read_factors(folder, config, backbone)
    bem_config = _read_bem_config(folder, backbone)
    # An adapter has one rank; modules of lower rank are padded with zeros.
    rank = max(a.shape[0] for a, _ in factors.values())
    controller = Controller(backbone.model.config.hidden_size, rank).state_dict()
    if bem_config and bem_config.controller_sha256:
        controller = load_file(folder / BEM_WEIGHTS)
    layers = sorted({int(site.split(".")[2]) for site in factors})
    kinds = [k for k, path in TARGET_MODULES.items() if any(s.endswith(path) for s in factors)]
    tensors = {f"{CONTROLLER_PREFIX}{key}": tensor for key, tensor in controller.items()}
    for layer in layers:
        for kind in kinds:
            site = f"model.layers.{layer}.{TARGET_MODULES[kind]}"
            # PEFT may adapt a module in some layers only; an artifact has every module of a layer.
            a, b = factors.get(site) or _rank_zero(backbone, site)
            tensors[f"{site}.A"] = _pad_rank(a, 0, rank)
            tensors[f"{site}.B"] = _pad_rank(b, 1, rank)
    card = AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=layers,
        kinds=kinds,
        rank=rank,
        scale=1.0,
        feature_layer=bem_config.feature_layer if bem_config else feature_layer,
        command=f"python -m bem.adapters import --name {name}",
        data_digest="",
        seed=0,
        metrics={"peft": {"weights_sha256": file_digest(folder / WEIGHTS)}},
    )
    return save_adapter(out, card, tensors)


def export_lora(adapter: Adapter, out: Path) -> bool:
    """Write an adapter as a folder that PEFT loads.

    Args:
        adapter: Adapter read from its artifact.
        out: Created if missing.

    Returns:
        Whether PEFT computes the outputs of the adapter. It does if the code is constant;
        otherwise PEFT computes them with a code of ones.
    """
    card = adapter.card
    hidden, width = adapter.controller["inner.weight"].shape
    controller = Controller(width, card.rank, hidden)
    controller.load_state_dict(adapter.controller)
    constant = controller.is_constant()
    code = torch.ones(card.rank)
    if constant:
        with torch.no_grad():
            code = controller.prefix(torch.zeros(1, width))[0]
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for site, (a, b) in adapter.factors.items():
        weights[f"{_PREFIX}{site}.lora_A.weight"] = a.contiguous()
        # A constant code is merged into B, so PEFT needs no controller.
        weights[f"{_PREFIX}{site}.lora_B.weight"] = (b * code).contiguous()
    (out / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    if not constant:
        (out / BEM_WEIGHTS).write_bytes(save(adapter.controller))
    bem_config = BemConfig(
        base_digest=card.base_digest,
        feature_layer=card.feature_layer,
        weights_sha256=file_digest(out / WEIGHTS),
        controller_sha256="" if constant else file_digest(out / BEM_WEIGHTS),
    )
    (out / BEM_CONFIG).write_text(json.dumps(vars(bem_config), indent=2) + "\n")
    (out / CONFIG).write_text(json.dumps(_peft_config(card), indent=2) + "\n")
    return constant


def _peft_config(card: AdapterCard) -> dict[str, Any]:
    return {
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as err:
        raise ArtifactFormatError(f"{path.parent.name} has no {path.name}") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ArtifactFormatError(f"{path.parent.name}/{path.name} is not JSON: {err}") from err
    if not isinstance(values, dict):
        raise ArtifactFormatError(f"{path.parent.name}/{path.name} is no JSON object")
    return values


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ArtifactFormatError(
            f"{folder.name}: peft_type is {config.get('peft_type')!r}; only LORA can be imported"
        )
    used = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ArtifactFormatError(
            f"{folder.name}: {', '.join(used)} is not supported; train the LoRA without it"
        )


def _read_factors(
    folder: Path, config: Mapping[str, Any], backbone: Backbone
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ``{site: (A, B)}`` with the scale multiplied into B.

    Raises:
        ArtifactFormatError: A tensor belongs to no site or has another shape.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
    except (FileNotFoundError, SafetensorError) as err:
        raise ArtifactFormatError(f"{folder.name} has no readable {WEIGHTS}: {err}") from err
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _TENSOR.fullmatch(key.removeprefix(_PREFIX))
        if match is None or match[3] not in TARGET_MODULES.values():
            raise ArtifactFormatError(
                f"{folder.name} adapts {key}; only {', '.join(TARGET_MODULES.values())} can be "
                "adapted, so that no key or value depends on a code"
            )
        pairs.setdefault(match["site"], {})[match["factor"]] = tensor.float()
    if not pairs:
        raise ArtifactFormatError(f"{folder.name}/{WEIGHTS} holds no LoRA")
    factors = {}
    for site, pair in pairs.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise ArtifactFormatError(
                f"{folder.name}: {site} does not have two factors of one rank"
            )
        layer = _base_layer(folder, backbone, site)
        shape = pair["B"].shape[0], pair["A"].shape[1]
        if shape != (layer.out_features, layer.in_features):
            raise ArtifactFormatError(
                f"{folder.name}: {site} is {shape}; {backbone.name} has "
                f"{(layer.out_features, layer.in_features)}"
            )
        factors[site] = pair["A"], pair["B"] * _scale(config, site, pair["A"].shape[0])
    return factors


def _base_layer(folder: Path, backbone: Backbone, site: str) -> Any:
    try:
        return backbone.model.get_submodule(site)
    except AttributeError as err:
        raise ArtifactFormatError(
            f"{folder.name} adapts {site}; {backbone.name} has {len(backbone.layers)} layers"
        ) from err


def _scale(config: Mapping[str, Any], site: str, rank: int) -> float:
    # PEFT matches a pattern against the end of the module path, and the first match wins.
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?{key}", site)),
        config.get("lora_alpha", rank),
    )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _read_bem_config(folder: Path, backbone: Backbone) -> BemConfig | None:
    if not (folder / BEM_CONFIG).is_file():
        return None
    try:
        bem_config = BemConfig(**_read_json(folder / BEM_CONFIG))
    except TypeError as err:
        raise ArtifactFormatError(f"{folder.name}/{BEM_CONFIG}: {err}") from err
    if bem_config.base_digest != backbone.digest:
        raise BaseMismatchError(
            f"{folder.name} was exported for base {bem_config.base_digest[:12]}; "
            f"loaded is {backbone.digest[:12]}"
        )
    # The controller was trained with these factors: with other factors its code is meaningless.
    stated = {WEIGHTS: bem_config.weights_sha256, BEM_WEIGHTS: bem_config.controller_sha256}
    for name, expected in stated.items():
        if expected and file_digest(folder / name) != expected:
            raise ArtifactTamperedError(
                f"{folder.name}/{name} does not have the SHA-256 in {BEM_CONFIG}; export again, or "
                f"remove {BEM_CONFIG} to import the factors without a controller"
            )
    return bem_config


def _rank_zero(backbone: Backbone, site: str) -> tuple[Tensor, Tensor]:
    layer = backbone.model.get_submodule(site)
    return torch.zeros(0, layer.in_features), torch.zeros(layer.out_features, 0)


def _pad_rank(factor: Tensor, axis: int, rank: int) -> Tensor:
    missing = list(factor.shape)
    missing[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(missing)], axis)
