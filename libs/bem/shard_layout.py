"""Tensor-parallel layout: which part of each weight a process holds (arXiv 1909.08053).

The part of a model that one of N processes holds is a smaller model of the same family, with a Nth
of the heads and of the MLP's width: queries, keys, values, gate and up are cut by outputs, the two
layers behind them by inputs. The sum of what all processes' output projections (``o_proj``,
``down_proj``) return is what the whole model's return; everything between is local.

Embedding and output matrix are whole in the first process. The others hold one row of each, because
they compute neither.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from bem.errors import UnsupportedBackboneError
from bem.model_families import FAMILIES, head_dim

SUMMED_MODULES = ("o_proj", "down_proj")
"""Modules whose outputs are summed over the processes."""
_VOCABULARY_MODULES = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class ShardSlice:
    """What a process holds of a tensor.

    Attributes:
        dim: Dimension that is cut.
        ranges: First index and index behind the last of each part; the parts follow each other.
    """

    dim: int
    ranges: tuple[tuple[int, int], ...]


def check_divisible(config: Any, shards: int, name: str) -> None:
    """Check that a model can be cut into equal parts.

    Args:
        config: Configuration of transformers, of a served family.
        shards: Number of processes.
        name: Name of the model in error messages.

    Raises:
        UnsupportedBackboneError: A width is no multiple of ``shards``, or a norm spans all heads.
    """
    family = FAMILIES[config.model_type]
    if family.qk_norm == "projection":
        raise UnsupportedBackboneError(
            f"shards: {name} ({family.label}) normalises the queries of all heads together, which "
            "is not supported over several processes; set SHARDS to 1"
        )
    widths = {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
    }
    for field, width in widths.items():
        if width % shards:
            raise UnsupportedBackboneError(
                f"shards: {shards} processes cannot share the {width} {field} of {name} equally; "
                f"set SHARDS to a divisor of {', '.join(map(str, widths.values()))}"
            )


def shard_config(config: Any, shards: int, rank: int) -> Any:
    """Return the configuration of the model that one process holds.

    Args:
        config: Configuration of the whole model, which stays as it is.
        shards: Number of processes.
        rank: Number of the process, from 0.
    """
    own = deepcopy(config)
    # Without it the width of a head would follow from the smaller number of heads.
    own.head_dim = head_dim(config)
    own.num_attention_heads //= shards
    own.num_key_value_heads //= shards
    own.intermediate_size //= shards
    if rank:
        own.vocab_size = 1
        own.pad_token_id = None
    return own


def shard_slice(tensor: str, config: Any, shards: int, rank: int) -> ShardSlice | None:
    """Return what a process holds of a tensor; None for all of it.

    Args:
        tensor: Name of the tensor in the weight file.
        config: Configuration of the whole model.
        shards: Number of processes.
        rank: Number of the process, from 0.
    """
    module = tensor.split(".")[-2]
    head = head_dim(config)
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    inner = config.intermediate_size
    outputs = {
        "q_proj": (queries,),
        "k_proj": (keys,),
        "v_proj": (keys,),
        "qkv_proj": (queries, keys, keys),
        "gate_proj": (inner,),
        "up_proj": (inner,),
        "gate_up_proj": (inner, inner),
    }
    inputs = {"o_proj": (queries,), "down_proj": (inner,)}
    if module in outputs:
        return ShardSlice(0, _ranges(outputs[module], shards, rank))
    if module in inputs:
        return ShardSlice(1, _ranges(inputs[module], shards, rank))
    if module in _VOCABULARY_MODULES and rank:
        return ShardSlice(0, ((0, 1),))
    return None


def _ranges(widths: tuple[int, ...], shards: int, rank: int) -> tuple[tuple[int, int], ...]:
    ranges, first = [], 0
    for width in widths:
        own = width // shards
        ranges.append((first + rank * own, first + (rank + 1) * own))
        first += width
    return tuple(ranges)
