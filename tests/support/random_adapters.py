"""Random adapters of the tiny base model."""

from pathlib import Path

import torch
from bem.adapters.artifact import AdapterCard, save_adapter
from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.controller import Controller

LAYERS = (2, 3)
RANK = 4
FEATURE_LAYER = 0


def write_adapter(
    folder: Path,
    backbone: Backbone,
    name: str,
    *,
    seed: int,
    size: float = 0.5,
    rank: int = RANK,
    constant_code: bool = False,
) -> AdapterCard:
    """Write an adapter with random factors and a random controller into ``folder / name``.

    With ``constant_code`` the controller is fresh, so that its code is one for every input.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in LAYERS:
        for path in TARGET_MODULES.values():
            site = f"model.layers.{layer}.{path}"
            base = backbone.model.get_submodule(site)
            base = getattr(base, "base", base)
            tensors[f"{site}.A"] = torch.randn(rank, base.in_features, generator=generator) * size
            tensors[f"{site}.B"] = torch.randn(base.out_features, rank, generator=generator) * size
    controller = Controller(backbone.model.config.hidden_size, rank)
    for key, value in controller.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) * 0.3
        tensors[f"controller.{key}"] = value if constant_code else drawn
    card = AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(LAYERS),
        kinds=list(TARGET_MODULES),
        rank=rank,
        scale=1.0,
        feature_layer=FEATURE_LAYER,
        command="test",
        data_digest="0",
        seed=seed,
    )
    return save_adapter(folder / name, card, tensors)
