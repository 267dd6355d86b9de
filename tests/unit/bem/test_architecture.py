"""Supported architectures, and the refusal of all others by name."""

from typing import Any

import pytest
from bem.architecture import check_config, served_context
from bem.errors import UnsupportedBackboneError

from tests.support.family_models import VARIANTS
from tests.support.tiny_models import tiny_config

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("phi3", {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}),
        ("llama", {}),
        ("llama", {"head_dim": 16, "tie_word_embeddings": True}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        *VARIANTS.values(),
    ],
)
def test_supported_configurations_pass(model_type: str, changes: dict[str, Any]) -> None:
    """Every family, any head width, tied or not, and the ropes that are tested."""
    check_config(tiny_config(model_type, **changes), "x")


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("mixtral", {}, "'mixtral' .experts"),
        ("cohere", {}, "'cohere'"),
        ("falcon", {}, "'falcon', which is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        (
            "qwen3",
            {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
            "chunked",
        ),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("mistral", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
        ("llama", {"auto_map": {"AutoModel": "own.Own"}}, "code of its own"),
    ],
)
def test_everything_else_is_refused_by_name(
    model_type: str, changes: dict[str, Any], named: str
) -> None:
    """The text names the model, the feature, what is supported, and what to do."""
    with pytest.raises(UnsupportedBackboneError, match=rf"x .*{named}.*supported are llama"):
        check_config(tiny_config(model_type, **changes), "x")


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_type": "longrope", "rope_theta": 1e4}, "rope_type 'longrope'"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_ropes_that_depend_on_the_length_are_refused(rope: dict[str, Any], named: str) -> None:
    """One table of angles serves all lengths, and turns whole heads."""
    config = tiny_config("llama")
    config.rope_parameters = rope
    with pytest.raises(UnsupportedBackboneError, match=named):
        check_config(config, "x")


def test_longrope_is_served_up_to_its_original_context() -> None:
    """Beyond it the angles of all tokens change, those of cached keys too."""
    own = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}
    config = tiny_config("phi3", sliding_window=None, **own)
    check_config(config, "x")
    assert (served_context(config), config.max_position_embeddings) == (64, 256)
    assert served_context(tiny_config("llama", rope_parameters=LLAMA3)) == 256
