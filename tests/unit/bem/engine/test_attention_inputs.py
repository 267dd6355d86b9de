"""Norms and projections of every family beside the modules of transformers."""

from typing import Any

import pytest
import torch
from bem.backbone import Backbone
from bem.engine.attention_inputs import AttentionInputs, FrozenNorm
from torch import Tensor

from tests.support.family_models import every_variant, family_backbone

ROWS, TOKENS = 2, 3


def states(backbone: Backbone) -> Tensor:
    """Return random states ``[R, T, F]`` of a model's width."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, TOKENS, backbone.model.config.hidden_size, generator=generator)


def fused(backbone: Backbone, x: Tensor) -> Tensor:
    """Return the products of all query, key and value matrices, without biases."""
    attention = backbone.layers[0].self_attn
    weights = [getattr(attention, name).weight for name in backbone.family.qkv]
    return x @ torch.cat(weights).T


def no_rotation(width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of position 0."""
    return torch.ones(ROWS, TOKENS, 1, width), torch.zeros(ROWS, TOKENS, 1, width)


def queries_of(backbone: Backbone, x: Tensor) -> Tensor:
    """Return the normalised queries ``[R, T, Q D]`` of transformers' modules."""
    attention: Any = backbone.layers[0].self_attn
    width = backbone.model.config.num_attention_heads * attention.head_dim
    projection = getattr(attention, backbone.family.qkv[0])
    queries: Tensor = projection(x)[..., :width]
    if backbone.family.qk_norm == "head":
        queries = attention.q_norm(queries.view(ROWS, TOKENS, -1, attention.head_dim)).flatten(2)
    if backbone.family.qk_norm == "projection":
        queries = attention.q_norm(queries)
    return queries


@every_variant
@torch.inference_mode()
def test_a_frozen_norm_is_the_module(variant: str) -> None:
    """The gain has the family's offset."""
    backbone = family_backbone(variant)
    module, x = backbone.model.model.norm, states(backbone)

    assert torch.allclose(FrozenNorm.of(backbone, module)(x), module(x), atol=1e-5)


@every_variant
@torch.inference_mode()
def test_queries_are_those_of_the_modules(variant: str) -> None:
    """Norm, projection, bias and norm of queries; scaled to products over the root of D."""
    backbone = family_backbone(variant)
    attention, x = backbone.layers[0].self_attn, states(backbone)
    inputs = AttentionInputs(backbone, 0)
    name = backbone.family.attention_norms.before
    normed = getattr(backbone.layers[0], name)(x) if name else x
    wanted = queries_of(backbone, normed).view(ROWS, TOKENS, -1, attention.head_dim)
    angles = no_rotation(attention.head_dim)

    both, values = inputs.project(x, lambda y: fused(backbone, y), *angles)
    heads = backbone.model.config.num_attention_heads
    assert torch.allclose(both[:, :, :heads], wanted, atol=1e-4)
    assert values.shape[2] == backbone.model.config.num_key_value_heads
    found = inputs.queries(x, lambda y: fused(backbone, y), *angles)
    factor = attention.scaling * attention.head_dim**0.5
    assert torch.allclose(found, wanted * factor, atol=1e-4)


@pytest.mark.parametrize(("variant", "rotated"), [("llama", True), ("smollm3", False)])
@torch.inference_mode()
def test_layers_without_rotation_ignore_the_angles(variant: str, rotated: bool) -> None:
    """The second layer of the tiny SmolLM3 has none."""
    backbone = family_backbone(variant)
    inputs, x = AttentionInputs(backbone, 1), states(backbone)
    cos, sin = no_rotation(backbone.layers[0].self_attn.head_dim)

    still = inputs.project(x, lambda y: fused(backbone, y), cos, sin)[0]
    turned = inputs.project(x, lambda y: fused(backbone, y), cos, sin + 1)[0]
    assert inputs.is_rotated == rotated
    assert torch.equal(still, turned) != rotated
