"""Random adapters for the tiny model."""

from pathlib import Path

import torch
from bem.adapters.artifact import AdapterCard, save_adapter
from bem.adapters.site import KINDS
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
    moving: bool = True,
) -> AdapterCard:
    """Write an adapter whose factors and, unless its code is not moving, controller are random."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in LAYERS:
        for kind, path in KINDS.items():
            site = f"model.layers.{layer}.{path}"
            base = backbone.model.get_submodule(site)
            base = getattr(base, "base", base)
            tensors[f"{site}.A"] = torch.randn(rank, base.in_features, generator=generator) * size
            tensors[f"{site}.B"] = torch.randn(base.out_features, rank, generator=generator) * size
            assert kind in path
    controller = Controller(backbone.model.config.hidden_size, rank)
    for key, value in controller.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) * 0.3
        tensors[f"controller.{key}"] = drawn if moving else value
    card = AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(LAYERS),
        kinds=list(KINDS),
        rank=rank,
        scale=1.0,
        feature_layer=FEATURE_LAYER,
        command="test",
        data_digest="0",
        seed=seed,
    )
    return save_adapter(folder / name, card, tensors)
