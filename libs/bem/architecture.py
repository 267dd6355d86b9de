"""Check of a base model's configuration against the families that the engine serves.

The engine writes layers out instead of calling transformers' modules. A model is therefore of a
declared family or refused by name: one that merely has the same modules may compute something else
with them. ``bem.engine.verification`` compares the outputs of a model that passes.
"""

from collections.abc import Mapping
from typing import Any

from bem.errors import UnsupportedBackboneError
from bem.model_families import FAMILIES, FULL, SLIDING, ModelFamily

# What the engine would have to compute beyond its families, for the types that people bring.
_UNSERVED = {
    "cohere": "parallel attention and MLP, layer norms with a logit scale",
    "deepseek_v3": "latent attention and experts",
    "gemma3": "images beside text; its text model alone is gemma3_text",
    "glm4": "partial rotary embeddings and further norms",
    "gpt2": "learned positions, layer norms, fused projections",
    "gpt_neox": "partial rotary embeddings, layer norms, fused projections",
    "mixtral": "experts",
    "phi": "parallel attention and MLP, layer norms, biases",
    "qwen2_moe": "experts",
    "qwen3_moe": "normalised queries and keys, experts",
    "stablelm": "partial rotary embeddings, layer norms",
}
_ACTIVATIONS = {"silu": ("silu", "swish"), "gelu": ("gelu_pytorch_tanh",)}
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_LONGROPE, _ORIGINAL = "longrope", "original_max_position_embeddings"
_ADVICE = (
    f"supported are {', '.join(FAMILIES)} without these; choose another model "
    "(docs/operations.md lists what is supported)"
)


def check_config(config: Any, name: str) -> None:
    """Check that the engine computes what a configuration describes.

    Args:
        config: Configuration of transformers.
        name: Name of the model in error messages.

    Raises:
        UnsupportedBackboneError: The architecture or one of its features is unsupported.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        detail = f" ({_UNSERVED[kind]})" if kind in _UNSERVED else ""
        raise UnsupportedBackboneError(
            f"backbone: {name} has model_type {kind!r}{detail}, which is not supported; {_ADVICE}"
        )
    features = _layer_features(FAMILIES[kind], config)
    if getattr(config, "quantization_config", None):
        features.append("quantised weights (quantization_config)")
    if getattr(config, "auto_map", None) and not FAMILIES[kind].ignores_own_code:
        features.append("code of its own (auto_map)")
    if features:
        raise UnsupportedBackboneError(
            f"backbone: {name} ({kind}) has {', '.join(features)}, which is not supported; "
            f"{_ADVICE}"
        )


def served_context(config: Any) -> int:
    """Return the most tokens of a text that the engine computes as the model does.

    With ``longrope`` all angles of a text change once it is longer than the original context. Keys
    of earlier tokens are then no longer those of the model, so the context ends there.

    Args:
        config: Configuration of transformers.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    limit = int(config.max_position_embeddings)
    if rope.get("rope_type") == _LONGROPE:
        return min(limit, int(rope[_ORIGINAL]))
    return limit


def _layer_features(family: ModelFamily, config: Any) -> list[str]:
    features = []
    if (activation := getattr(config, family.activation_field)) not in _ACTIVATIONS[
        family.activation
    ]:
        features.append(f"{family.activation_field} {activation!r}")
    flags = ("attention_bias", "mlp_bias", "use_bidirectional_attention")
    features += [flag for flag in flags if getattr(config, flag, False)]
    if family.windows == "layer_types":
        unknown = {str(one) for one in config.layer_types} - {FULL, SLIDING}
        features += [f"layer_types {one!r}" for one in sorted(unknown)]
    rope = getattr(config, "rope_parameters", None) or {}
    for one in rope.values() if family.rope_per_type else [rope]:
        features += _rope_features(one or {})
    return features


def _rope_features(rope: Mapping[str, Any]) -> list[str]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    features = []
    if kind not in _ROPE_TYPES:
        features.append(f"rope_type {kind!r}")
    if kind == _LONGROPE and not rope.get(_ORIGINAL):
        features.append(f"rope_type {kind!r} without {_ORIGINAL}")
    if rope.get("partial_rotary_factor", 1) != 1:
        features.append("partial_rotary_factor")
    return features
