"""GPU sizing: memory that an engine takes on each GPU, computed from a model's configuration.

The parts are those that the engine allocates; tests compare each with a loaded model. Nothing here
is measured on a GPU.
"""

from dataclasses import dataclass
from typing import Any

from bem.engine.kv_cache import kv_token_bytes
from bem.model_families import FAMILIES, head_dim

START_BYTES = 4
"""Bytes of a parameter while the model is loaded and compared with transformers, in float32."""
_CONCATENATED = 3
"""Stacks of a site on a GPU: the slots, and the concatenated factors of twice as many adapters."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on the GPU of the first process, which holds the most.

    Attributes:
        start: Weights in float32, as they are loaded and compared.
        weights: Weights as they are served.
        kv: Keys and values of all slots, which a GPU allocates at the start.
        adapters: Factors of the resident adapters; 0 in several processes.
        prefix: Most that the prefix cache takes.
    """

    start: int
    weights: int
    kv: int
    adapters: int
    prefix: int

    @property
    def served(self) -> int:
        """Bytes of all parts while requests are served."""
        return self.weights + self.kv + self.adapters + self.prefix

    @property
    def least(self) -> int:
        """Bytes that the GPU must have, beside CUDA's own and the activations."""
        return max(self.start, self.served)


def gpu_memory(
    config: Any,
    *,
    shards: int = 1,
    value_bytes: int = 2,
    slots: int,
    context_tokens: int,
    prefix_bytes: int,
    adapter_slots: int = 16,
    rank: int = 16,
) -> GpuMemory:
    """Return the memory of one model.

    Args:
        config: Configuration of transformers.
        shards: Processes that hold the model, with a GPU each.
        value_bytes: Bytes of a weight and of a key's value: 2 for ``bf16``, 4 for ``fp32``.
        slots: Requests that run at once, guests included.
        context_tokens: Limit of prompt and output together.
        prefix_bytes: Memory of the prefix cache.
        adapter_slots: Adapters that are resident at once.
        rank: Highest rank of an adapter.
    """
    parameters = layer_parameters(config) // shards + vocabulary_parameters(config)
    # One more position, to which steps of fixed shape write the tokens of idle slots.
    positions = context_tokens + (shards == 1)
    factors = adapter_slots * rank * site_widths(config) * _CONCATENATED if shards == 1 else 0
    return GpuMemory(
        start=START_BYTES * parameters,
        weights=value_bytes * parameters,
        kv=slots * positions * kv_token_bytes(config, value_bytes) // shards,
        adapters=value_bytes * factors,
        prefix=prefix_bytes,
    )


def layer_parameters(config: Any) -> int:
    """Return the numbers in all matrices of the layers."""
    return int(sum(inputs * outputs for inputs, outputs in _matrices(config)))


def site_widths(config: Any) -> int:
    """Return the inputs and outputs of all matrices of the layers: a LoRA's numbers for a rank."""
    return int(sum(inputs + outputs for inputs, outputs in _matrices(config)))


def vocabulary_parameters(config: Any) -> int:
    """Return the numbers in embedding and output matrix, which count once where they are tied."""
    copies = 1 if config.tie_word_embeddings else 2
    return int(copies * config.vocab_size * config.hidden_size)


def _matrices(config: Any) -> list[tuple[int, int]]:
    """Return inputs and outputs of each matrix of the layers."""
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * head_dim(config)
    keys = config.num_key_value_heads * head_dim(config)
    family = FAMILIES[config.model_type]
    read_by_attention, read_by_mlp = [queries, keys, keys], [inner, inner]
    if len(family.qkv) == 1:
        read_by_attention = [sum(read_by_attention)]
    if len(family.gate_up) == 1:
        read_by_mlp = [sum(read_by_mlp)]
    readers = [(width, outputs) for outputs in (*read_by_attention, *read_by_mlp)]
    return [*readers, (queries, width), (inner, width)] * config.num_hidden_layers
