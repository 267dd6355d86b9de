"""Model families that the engine serves: each a declaration beside one forward pass.

A family says what its layers compute that Llama's do not: which modules hold the projections and
norms, how queries and keys are normalised, which layers have a sliding window or no rotary
embedding, and by which constants values are multiplied. ``bem.engine.decoder`` reads the
declaration; no family has code of its own there.

Example: a layer of OLMo-2 has its norms behind attention and MLP instead of before them, and
normalises all queries and all keys of a token together::

    ModelFamily(
        "OLMo-2",
        qk_norm="projection",
        attention_norms=Norms(before="", after="post_attention_layernorm"),
        mlp_norms=Norms(before="", after="post_feedforward_layernorm"),
    )
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

FULL, SLIDING = "full_attention", "sliding_attention"
"""Values of ``layer_types`` in ``config.json`` that the engine computes."""


@dataclass(frozen=True)
class Norms:
    """Names of the norms around attention or an MLP; an empty name is no norm.

    Attributes:
        before: Norm of the input.
        after: Norm of the output, before it is added to the residual stream.
    """

    before: str
    after: str = ""


@dataclass(frozen=True)
class Constants:
    """Constants of a forward pass; the defaults are Llama's.

    Attributes:
        embedding: Factor of the embeddings.
        residual: Factor of what attention and MLP add to the residual stream.
        attention: Factor of the products of queries and keys; None for the root of the head width.
        attention_cap: Bound c of ``c tanh(x / c)`` on these products; None for no bound.
        logits: Factor of the logits.
        logit_cap: Bound of the logits, as that of attention; None for no bound.
    """

    embedding: float = 1.0
    residual: float = 1.0
    attention: float | None = None
    attention_cap: float | None = None
    logits: float = 1.0
    logit_cap: float | None = None

    @property
    def change_logits(self) -> bool:
        """Whether logits are not those of the output matrix."""
        return self.logits != 1 or self.logit_cap is not None


LLAMA = Constants()


def _llama_constants(_config: Any) -> Constants:
    return LLAMA


def _granite_constants(config: Any) -> Constants:
    return Constants(
        embedding=config.embedding_multiplier,
        residual=config.residual_multiplier,
        attention=config.attention_multiplier,
        logits=1 / config.logits_scaling,
    )


def _gemma_constants(config: Any) -> Constants:
    return Constants(embedding=config.hidden_size**0.5)


def _gemma2_constants(config: Any) -> Constants:
    return Constants(
        embedding=config.hidden_size**0.5,
        attention=config.query_pre_attn_scalar**-0.5,
        attention_cap=config.attn_logit_softcapping,
        logit_cap=config.final_logit_softcapping,
    )


def _gemma3_constants(config: Any) -> Constants:
    # transformers ignores attn_logit_softcapping here.
    return Constants(
        embedding=config.hidden_size**0.5,
        attention=config.query_pre_attn_scalar**-0.5,
        logit_cap=config.final_logit_softcapping,
    )


@dataclass(frozen=True)
class ModelFamily:
    """What the models of one ``model_type`` compute; the defaults are Llama's layer.

    Attributes:
        label: Name that people know the family by.
        qkv: Modules of ``self_attn`` whose outputs are queries, keys and values.
        qkv_bias: Whether these have biases.
        qk_norm: Whether queries and keys are normalised: each head, or all heads of a token
            together (``projection``).
        attention_norms: Norms around attention.
        gate_up: Modules of ``mlp`` whose outputs are gate and up.
        mlp_norms: Norms around the MLP.
        gain_offset: What is added to the stored gains of norms.
        activation: Activation of the gate; ``gelu`` is its tanh approximation.
        activation_field: Field of the configuration that names the activation.
        windows: Layers with a sliding window: none, all, or those that ``layer_types`` names.
        rope_per_type: Whether layers with a window have rotary angles of their own.
        rotated_field: Field of the configuration with a 1 for each layer that has rotary
            embeddings; empty if all have.
        ignores_own_code: Whether configurations may name code of their own (``auto_map``), because
            published ones do although transformers has had the same model since.
        constants: Returns the constants of a configuration.
    """

    label: str
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    qkv_bias: bool = False
    qk_norm: Literal["none", "head", "projection"] = "none"
    attention_norms: Norms = Norms("input_layernorm")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    mlp_norms: Norms = Norms("post_attention_layernorm")
    gain_offset: float = 0.0
    activation: Literal["silu", "gelu"] = "silu"
    activation_field: str = "hidden_act"
    windows: Literal["none", "all", "layer_types"] = "none"
    rope_per_type: bool = False
    rotated_field: str = ""
    ignores_own_code: bool = False
    constants: Callable[[Any], Constants] = _llama_constants

    def window(self, config: Any) -> int | None:
        """Return the tokens that a layer with a window attends to; None if there is no such layer.

        Args:
            config: Configuration of transformers.
        """
        width = getattr(config, "sliding_window", None)
        if self.windows == "none" or width is None:
            return None
        return int(width) if any(self.has_window(config, n) for n in _layers(config)) else None

    def has_window(self, config: Any, layer: int) -> bool:
        """Return whether a layer has a sliding window."""
        if self.windows == "layer_types":
            return bool(config.layer_types[layer] == SLIDING)
        return self.windows == "all" and config.sliding_window is not None

    def is_rotated(self, config: Any, layer: int) -> bool:
        """Return whether a layer has rotary embeddings."""
        return not self.rotated_field or bool(getattr(config, self.rotated_field)[layer])

    def beyond_llama(self, config: Any) -> list[str]:
        """Return what a model computes beside Llama's layer, without its sliding window."""
        plain = FAMILIES["llama"]
        constants = self.constants(config)
        features = {
            "biases of queries, keys and values": self.qkv_bias,
            "normalised queries and keys": self.qk_norm != "none",
            "norms behind attention and MLP": bool(self.attention_norms.after),
            "norms with a gain of 1 + w": self.gain_offset != 0,
            "GELU": self.activation != plain.activation,
            "fused projections": self.qkv != plain.qkv,
            "layers without rotary embeddings": not all(
                self.is_rotated(config, layer) for layer in _layers(config)
            ),
            "angles by kind of layer": self.rope_per_type,
            "multipliers or soft caps": constants != LLAMA,
        }
        return [name for name, present in features.items() if present]


_GEMMA_ATTENTION_NORMS = Norms("input_layernorm", "post_attention_layernorm")
_GEMMA_MLP_NORMS = Norms("pre_feedforward_layernorm", "post_feedforward_layernorm")

FAMILIES: dict[str, ModelFamily] = {
    "llama": ModelFamily("Llama"),
    "mistral": ModelFamily("Mistral", windows="all"),
    "qwen2": ModelFamily("Qwen2", qkv_bias=True, windows="layer_types"),
    "qwen3": ModelFamily("Qwen3", qk_norm="head", windows="layer_types"),
    "granite": ModelFamily("Granite", constants=_granite_constants),
    "smollm3": ModelFamily("SmolLM3", windows="layer_types", rotated_field="no_rope_layers"),
    "olmo2": ModelFamily(
        "OLMo-2",
        qk_norm="projection",
        attention_norms=Norms("", "post_attention_layernorm"),
        mlp_norms=Norms("", "post_feedforward_layernorm"),
    ),
    "phi3": ModelFamily(
        "Phi-3",
        qkv=("qkv_proj",),
        gate_up=("gate_up_proj",),
        windows="all",
        ignores_own_code=True,
    ),
    "gemma": ModelFamily("Gemma", gain_offset=1.0, activation="gelu", constants=_gemma_constants),
    "gemma2": ModelFamily(
        "Gemma 2",
        attention_norms=_GEMMA_ATTENTION_NORMS,
        mlp_norms=_GEMMA_MLP_NORMS,
        gain_offset=1.0,
        activation="gelu",
        activation_field="hidden_activation",
        windows="layer_types",
        constants=_gemma2_constants,
    ),
    "gemma3_text": ModelFamily(
        "Gemma 3 (text)",
        qk_norm="head",
        attention_norms=_GEMMA_ATTENTION_NORMS,
        mlp_norms=_GEMMA_MLP_NORMS,
        gain_offset=1.0,
        activation="gelu",
        activation_field="hidden_activation",
        windows="layer_types",
        rope_per_type=True,
        constants=_gemma3_constants,
    ),
}
"""Families by ``model_type`` of ``config.json``."""


def head_dim(config: Any) -> int:
    """Return the width of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _layers(config: Any) -> range:
    return range(config.num_hidden_layers)
