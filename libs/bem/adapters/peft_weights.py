"""Weights of a PEFT folder: tensors, the modules that they belong to, and their shapes."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bem.adapters.artifact import Factors
from bem.adapters.linear_sites import linear_kinds
from bem.adapters.peft_config import CONFIG, LoraConfig
from bem.adapters.site import LINEAR_MODULES
from bem.artifacts import check_weights
from bem.backbone import Backbone
from bem.errors import ArtifactFormatError

WEIGHTS = "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."
_PICKLED_WEIGHTS = "adapter_model.bin"
_TENSOR = re.compile(r"(?P<site>.+)\.lora_(?P<factor>[AB])\.weight")
_ADAPTABLE = (nn.Linear, nn.Embedding)
_SHOWN_MODULES = 4


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read a safetensors file; a pickle is refused with the conversion."""
    if name == WEIGHTS and not (folder / name).is_file() and (folder / _PICKLED_WEIGHTS).is_file():
        raise ArtifactFormatError(
            f"{folder.name}/{_PICKLED_WEIGHTS} is a pickle, which can run code when it is read; "
            "convert it where you trust it: PeftModel.from_pretrained(base, folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError, ValueError) as err:
        raise ArtifactFormatError(f"{folder.name} has no readable {name}: {err}") from err


def read_factors(folder: Path, config: LoraConfig, backbone: Backbone) -> dict[str, Factors]:
    """Return ``{site: (A, B)}`` with the scale multiplied into B.

    Raises:
        ArtifactFormatError: A tensor belongs to no site or has another shape, or the configuration
            names modules without tensors.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_tensors(folder, WEIGHTS).items():
        match = _TENSOR.fullmatch(key.removeprefix(KEY_PREFIX))
        if match is None:
            raise ArtifactFormatError(
                f"{folder.name}: the tensor {key} is no factor of a linear layer; train the LoRA "
                f"with target_modules={list(linear_kinds(backbone))}"
            )
        check_weights(f"{folder.name}/{WEIGHTS}: {key}", tensor)
        pairs.setdefault(match["site"], {})[match["factor"]] = tensor.float()
    _check_modules(folder, config, backbone, set(pairs))
    factors = {}
    for site, pair in pairs.items():
        layer, rank = backbone.model.get_submodule(site), config.rank_of(site)
        shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
        if {name: tuple(tensor.shape) for name, tensor in pair.items()} != shapes:
            raise ArtifactFormatError(
                f"{folder.name}: {site} has {_shapes(pair)}; with {backbone.name} and {CONFIG} it "
                f"is A {shapes['A']} and B {shapes['B']}; use the base model that it was trained on"
            )
        factors[site] = pair["A"], pair["B"] * config.scale_of(site)
        check_weights(f"{folder.name}: {site}, scaled", factors[site][1])
    return factors


def _check_modules(folder: Path, config: LoraConfig, backbone: Backbone, sites: set[str]) -> None:
    """Check that the modules with tensors are sites, and those that peft would adapt."""
    modules = {n for n, m in backbone.model.named_modules() if isinstance(m, _ADAPTABLE)}
    if beyond := sites - modules:
        raise ArtifactFormatError(
            f"{folder.name} adapts {_listing(beyond)}; {backbone.name} with its "
            f"{len(backbone.layers)} layers has no such module; use the base model that it was "
            "trained on"
        )
    adapted = {module for module in modules if config.adapts(module)}
    paths = tuple(LINEAR_MODULES[kind] for kind in linear_kinds(backbone))
    if others := {one for one in sites | adapted if not one.endswith(paths)}:
        kinds = {one.rpartition(".")[2] for one in others}
        raise ArtifactFormatError(
            f"{folder.name} adapts {_listing(kinds)}; only the linear layers of decoder layers can "
            f"be adapted; train the LoRA with target_modules={list(linear_kinds(backbone))}"
        )
    if not sites:
        raise ArtifactFormatError(f"{folder.name}/{WEIGHTS} holds no LoRA; save it by peft")
    if difference := sites ^ adapted:
        raise ArtifactFormatError(
            f"{folder.name}: {CONFIG} and {WEIGHTS} name different modules: "
            f"{_listing(difference)}; save the LoRA by peft again"
        )


def _listing(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN_MODULES} more" if len(names) > _SHOWN_MODULES else ""
    return f"{', '.join(sorted(names)[:_SHOWN_MODULES])}{more}"


def _shapes(pair: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(pair[name].shape)}" for name in sorted(pair))
