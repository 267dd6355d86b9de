"""Tiny random models of every served family, with the features that people's models have."""

from typing import Any

import pytest
from bem.backbone import Backbone

from tests.support.tiny_models import backbone_of, tiny_model

WINDOW = 16
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "mistral-full": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-window": (
        "qwen3",
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
        },
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "smollm3-window": (
        "smollm3",
        {"no_rope_layers": [1, 1, 0], "use_sliding_window": True, "sliding_window": WINDOW},
    ),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3-window": ("phi3", {"sliding_window": WINDOW, "num_key_value_heads": 1}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma-wide": ("gemma", {"head_dim": 256, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma3-sliding": (
        "gemma3_text",
        {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 3},
    ),
}
"""Model type and changes of the configuration by name."""

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def family_backbone(variant: str) -> Backbone:
    """Return a tiny model of one variant; each call draws the same weights."""
    model_type, changes = VARIANTS[variant]
    return backbone_of(tiny_model(model_type, **changes), variant)
