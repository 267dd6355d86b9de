"""Random safety adapters for the tiny model."""

from pathlib import Path

import torch
from bem.adapters.site import KINDS
from bem.backbone import Backbone
from bem.safety import SafetyCard, ValueHead, reserve, save_safety

from tests.unit.bem.adapters import FEATURE_LAYER, LAYERS, RANK

BASIS = 6
# Far from zero, and small enough to leave an adapter beside it its say.
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
    """Write an adapter whose factors are random and far from zero; every request is risky."""
    generator = torch.Generator().manual_seed(seed)
    width = backbone.model.config.hidden_size
    tensors = {}
    for layer in LAYERS:
        tensors[f"{layer}.Q"] = reserve(width, basis, seed=seed * 100 + layer)
        for path in KINDS.values():
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
        kinds=list(KINDS),
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
