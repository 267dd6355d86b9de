"""Random safety adapters of the tiny base model."""

from pathlib import Path

import torch
from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone
from bem.safety import SafetyCard, ValueHead, reserve_basis, save_safety

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK

BASIS = 6
# Far from zero, and small enough that an adapter beside it still changes the output.
SIZE = 0.6


def write_safety(
    folder: Path,
    backbone: Backbone,
    *,
    seed: int = 5,
    threshold: float = 0.0,
    rank: int = RANK,
    basis: int = BASIS,
) -> SafetyCard:
    """Write a safety adapter with random factors; its value head finds every request risky."""
    generator = torch.Generator().manual_seed(seed)
    width = backbone.model.config.hidden_size
    tensors = {}
    for layer in LAYERS:
        tensors[f"{layer}.Q"] = reserve_basis(width, basis, seed=seed * 100 + layer)
        for path in TARGET_MODULES.values():
            site = f"model.layers.{layer}.{path}"
            base = backbone.model.get_submodule(site)
            base = getattr(base, "base", base)
            tensors[f"{site}.A"] = torch.randn(rank, base.in_features, generator=generator) * SIZE
            tensors[f"{site}.C"] = torch.randn(basis, rank, generator=generator) * SIZE
    head = ValueHead(width)
    with torch.no_grad():
        head.linear.bias.fill_(1.0)
        head.threshold.fill_(threshold)
        head.full.fill_(threshold + 2.0)
    tensors |= {f"value.{name}": tensor for name, tensor in head.state_dict().items()}
    card = SafetyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(LAYERS),
        kinds=list(TARGET_MODULES),
        rank=rank,
        scale=1.0,
        basis=basis,
        epsilon=0.1,
        feature_layer=FEATURE_LAYER,
        command="test",
        data_digest="0",
        seed=seed,
    )
    return save_safety(folder, card, tensors)
