"""Tensor-parallel layout: parts of the weights, and what cannot be cut."""

import pytest
from bem.errors import UnsupportedBackboneError
from bem.shard_layout import check_divisible, shard_config, shard_slice

from tests.support.tiny_models import tiny_config, tiny_model


def test_the_parts_of_all_processes_are_the_whole_tensor() -> None:
    """Every process holds other rows or columns of a cut tensor, together all of them."""
    config = tiny_config("phi3")
    for name, tensor in tiny_model("phi3").state_dict().items():
        parts = [shard_slice(name, config, 2, rank) for rank in range(2)]
        if parts[0] is None:
            assert parts[1] is None or name.split(".")[-2] in {"embed_tokens", "lm_head"}
            continue
        taken = sorted(
            index
            for part in parts
            if part is not None
            for begin, end in part.ranges
            for index in range(begin, end)
        )
        assert taken == list(range(tensor.shape[parts[0].dim])), name


def test_fused_projections_are_cut_in_each_of_their_parts() -> None:
    """A process has its heads' queries, keys and values, not the first rows of the matrix."""
    config = tiny_config("phi3")  # 4 heads and 2 key heads of 8
    part = shard_slice("model.layers.0.self_attn.qkv_proj.weight", config, 2, 1)
    assert part is not None
    assert part.dim == 0
    assert part.ranges == ((16, 32), (40, 48), (56, 64))


def test_a_part_is_a_smaller_model_with_heads_of_the_same_width() -> None:
    """Heads and the MLP's width are divided; vocabulary is held by the first process alone."""
    config = tiny_config("qwen2")
    first, second = (shard_config(config, 2, rank) for rank in range(2))
    assert (first.num_attention_heads, first.num_key_value_heads) == (2, 1)
    assert (first.intermediate_size, first.head_dim) == (32, 8)
    assert first.hidden_size == second.hidden_size == config.hidden_size
    assert (first.vocab_size, second.vocab_size) == (config.vocab_size, 1)
    assert config.num_attention_heads == 4


@pytest.mark.parametrize(
    ("family", "shards", "named"),
    [
        ("llama", 3, "the 4 num_attention_heads of x equally; set SHARDS to a divisor of 4, 2, 64"),
        ("llama", 4, "the 2 num_key_value_heads"),
        ("olmo2", 2, r"OLMo-2\) normalises the queries of all heads together"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(family: str, shards: int, named: str) -> None:
    """The text names the width, or the norm that spans all heads."""
    with pytest.raises(UnsupportedBackboneError, match=named):
        check_divisible(tiny_config(family), shards, "x")


def test_norms_are_whole() -> None:
    """Norms are in every process."""
    config = tiny_config("llama")
    assert shard_slice("model.norm.weight", config, 2, 1) is None
