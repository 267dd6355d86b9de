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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bem.adapters.artifact import (
    CONTROLLER_PREFIX,
    NAME_PATTERN,
    Adapter,
    AdapterCard,
    Factors,
    save_adapter,
)
from bem.adapters.peft_config import CONFIG, LoraConfig, parse_config
from bem.adapters.peft_weights import KEY_PREFIX, WEIGHTS, load_tensors, read_factors
from bem.adapters.projection import is_outside, project_outside
from bem.adapters.projection_effect import largest_logit_difference
from bem.adapters.site import LINEAR_MODULES, TARGET_MODULES
from bem.backbone import Backbone
from bem.controller import Controller
from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

BEM_CONFIG, BEM_WEIGHTS = "bem.json", "bem.safetensors"


@dataclass(frozen=True)
class BankLimits:
    """What a mission's adapter bank takes; a refusal names the setting.

    Attributes:
        rank: Highest rank, setting ``RANK``.
        first_layer: Lowest layer with sites, setting ``FIRST_LAYER``.
        prefix: Prefix of the settings' names.
    """

    rank: int
    first_layer: int
    prefix: str = "BEM_ROUTER_"


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
    folder: Path,
    out: Path,
    *,
    backbone: Backbone,
    name: str,
    feature_layer: int,
    limits: BankLimits | None = None,
    reserved: Mapping[str, Tensor] | None = None,
    exact: bool = False,
    other_base: bool = False,
) -> AdapterCard:
    """Write the LoRA in ``folder`` as an adapter into ``out`` and return its card.

    Args:
        folder: Folder written by ``PeftModel.save_pretrained``.
        out: Created if missing; an older adapter in it is replaced.
        backbone: Base model that the LoRA was trained for.
        name: Name of the adapter.
        feature_layer: Feature layer of the bank that will load the adapter; a feature layer in
            ``bem.json`` takes precedence.
        limits: Limits of the bank that will load the adapter; None checks none.
        reserved: Safety basis ``{site path: Q [d_out, k]}`` outside which the bank will project the
            adapter. The card's ``metrics.peft.projection_logit_difference`` says what that changes.
        exact: Whether the bank serves the factors unprojected.
        other_base: Whether a LoRA that names another base model is accepted.

    Raises:
        ArtifactFormatError: The folder is no LoRA, uses an unsupported option, or adapts modules
            that adapters cannot or the bank does not take.
        ArtifactTamperedError: ``bem.json`` belongs to other weights.
        BaseMismatchError: The folder was made for another base model.
    """
    _check_name(name, backbone)
    config = parse_config(folder.name, _read_json(folder / CONFIG))
    if not other_base:
        _check_base(folder, config, backbone)
    factors = read_factors(folder, config, backbone)
    bem_config = _read_bem_config(folder, backbone)
    rank = max(a.shape[0] for a, _ in factors.values())  # modules of lower rank are padded
    _check_rank(folder, limits, rank)
    if bem_config and bem_config.controller_sha256:
        _check_driven(folder, limits, factors)
    controller = _controller_tensors(folder, backbone, bem_config, rank)
    card = AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=sorted({int(site.split(".")[2]) for site in factors}),
        kinds=[k for k, path in LINEAR_MODULES.items() if any(s.endswith(path) for s in factors)],
        rank=rank,
        scale=1.0,
        feature_layer=bem_config.feature_layer if bem_config else feature_layer,
        command=f"fleetctl adapters import --name {name}{' --exact' if exact else ''}",
        data_digest="",
        seed=0,
        metrics={"peft": _measures(folder, backbone, factors, reserved or {})},
        exact=exact,
        invocation_tokens=list(config.invocation_tokens),
    )
    return save_adapter(out, card, _adapter_tensors(backbone, factors, rank) | controller)


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
    controller = Controller(width, card.rank, hidden, active=card.active_ranks)
    controller.load_state_dict(adapter.controller)
    constant = controller.is_constant()
    code = torch.ones(card.rank)
    if constant:
        with torch.no_grad():
            code = controller.prefix(torch.zeros(1, width))[0]
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for site, (a, b) in adapter.factors.items():
        weights[f"{KEY_PREFIX}{site}.lora_A.weight"] = a.contiguous()
        # A constant code is merged into B, so PEFT needs no controller.
        weights[f"{KEY_PREFIX}{site}.lora_B.weight"] = (b * code).contiguous()
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
    tokens = card.invocation_tokens
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
        **({"alora_invocation_tokens": tokens} if tokens else {}),
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


def _check_name(name: str, backbone: Backbone) -> None:
    if not NAME_PATTERN.fullmatch(name) or name == backbone.name:
        raise ArtifactFormatError(
            f"name: {name!r} is not allowed; it must match {NAME_PATTERN.pattern} and not be the "
            "base model's name; choose another one"
        )


def _measures(
    folder: Path, backbone: Backbone, factors: Mapping[str, Factors], reserved: Mapping[str, Tensor]
) -> dict[str, Any]:
    measures: dict[str, Any] = {
        "weights_sha256": file_digest(folder / WEIGHTS),
        "resident_bytes": sum(a.nbytes + b.nbytes for a, b in factors.values()),
    }
    if not is_outside(factors, reserved):
        projected = project_outside(factors, reserved)
        difference = largest_logit_difference(backbone, factors, projected)
        measures["projection_logit_difference"] = difference
    return measures


def _check_base(folder: Path, config: LoraConfig, backbone: Backbone) -> None:
    """Compare the last parts of the names: a LoRA may name a repository, a folder or a file."""
    stated = Path(config.base).name.lower()
    if stated and stated != backbone.name.lower():
        raise BaseMismatchError(
            f"{folder.name}: base_model_name_or_path is {config.base!r}, and the base model here "
            f"is {backbone.name!r}; a LoRA of another base gives wrong outputs; add --force if "
            "both names mean the same weights"
        )


def _check_rank(folder: Path, limits: BankLimits | None, rank: int) -> None:
    if limits and rank > limits.rank:
        raise ArtifactFormatError(
            f"{folder.name}: the rank is {rank}; the mission takes {limits.rank}; set "
            f"{limits.prefix}RANK={rank} for this command and for the mission"
        )


def _check_driven(folder: Path, limits: BankLimits | None, factors: Mapping[str, Factors]) -> None:
    """Check that an adapter with a controller adapts only what controllers drive."""
    kinds = {site.rpartition(".")[2] for site in factors} - set(TARGET_MODULES)
    if kinds:
        raise ArtifactFormatError(
            f"{folder.name}: its controller cannot drive {', '.join(sorted(kinds))}; train it on "
            f"{' and '.join(TARGET_MODULES)}"
        )
    if limits is None:
        return
    lowest = min(int(site.split(".")[2]) for site in factors)
    if lowest < limits.first_layer:
        raise ArtifactFormatError(
            f"{folder.name}: it adapts layer {lowest}; the mission's sites begin at layer "
            f"{limits.first_layer}; set {limits.prefix}FIRST_LAYER={lowest} for this command and "
            "for the mission"
        )


def _adapter_tensors(
    backbone: Backbone, factors: Mapping[str, Factors], rank: int
) -> dict[str, Tensor]:
    """Return the factors of every kind of site in every adapted layer, padded to one rank."""
    tensors = {}
    for layer in {site.split(".")[2] for site in factors}:
        for path in LINEAR_MODULES.values():
            if not any(site.endswith(path) for site in factors):
                continue
            site = f"model.layers.{layer}.{path}"
            # PEFT may adapt a module in some layers only; an artifact has every module of a layer.
            a, b = factors.get(site) or _rank_zero(backbone, site)
            tensors[f"{site}.A"] = _pad_rank(a, 0, rank)
            tensors[f"{site}.B"] = _pad_rank(b, 1, rank)
    return tensors


def _controller_tensors(
    folder: Path, backbone: Backbone, bem_config: BemConfig | None, rank: int
) -> dict[str, Tensor]:
    controller = Controller(backbone.model.config.hidden_size, rank).state_dict()
    if bem_config and bem_config.controller_sha256:
        stored = load_tensors(folder, BEM_WEIGHTS)
        shapes = {name: tensor.shape for name, tensor in controller.items()}
        if {name: tensor.shape for name, tensor in stored.items()} != shapes:
            raise ArtifactFormatError(
                f"{folder.name}/{BEM_WEIGHTS} is no controller of this base model; export again"
            )
        controller = stored
    return {f"{CONTROLLER_PREFIX}{key}": tensor for key, tensor in controller.items()}


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
