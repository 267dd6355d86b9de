"""Table of GPU memory in ``docs/operations.md``: ``python -m tools.gpu_sizing`` prints it."""

import sys
from types import SimpleNamespace

from bem.engine.gpu_sizing import GpuMemory, gpu_memory
from bem.engine.kv_cache import kv_token_bytes

GIB = 2**30
RESERVE_GIB = 2.0
"""Room for CUDA's context, collectives and activations: an estimate, as the only figure here."""
SMOLLM2 = SimpleNamespace(
    model_type="llama",
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)
MISTRAL_7B = SimpleNamespace(
    model_type="mistral",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=32768,
    tie_word_embeddings=False,
)
LLAMA_70B = SimpleNamespace(
    model_type="llama",
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    vocab_size=128256,
    tie_word_embeddings=False,
)
# Model, processes, slots (rows and guests), context.
EXAMPLES = (
    ("SmolLM2-135M", SMOLLM2, 1, 20, 8192),
    ("7B (Mistral's shape)", MISTRAL_7B, 1, 20, 4096),
    ("7B (Mistral's shape)", MISTRAL_7B, 2, 20, 8192),
    ("70B (Llama 3's shape)", LLAMA_70B, 4, 8, 8192),
    ("70B (Llama 3's shape)", LLAMA_70B, 8, 20, 8192),
)
_HEAD = (
    *("model", "`SHARDS`", "slots", "context", "KV bytes a token", "start", "weights", "KV"),
    *("adapters", "prefix", "least on a GPU", "24 GB", "80 GB"),
)


def sizing_table() -> str:
    """Return the Markdown table of all examples, in GiB."""
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for name, config, shards, slots, context in EXAMPLES:
        memory = gpu_memory(
            config, shards=shards, slots=slots, context_tokens=context, prefix_bytes=GIB // 4
        )
        token = f"{kv_token_bytes(config, 2):,}"
        lines.append(_line([name, str(shards), str(slots), f"{context:,}", token, *_cells(memory)]))
    return "\n".join(lines)


def _cells(memory: GpuMemory) -> list[str]:
    parts = (memory.start, memory.weights, memory.kv, memory.adapters, memory.prefix)
    least = memory.least / GIB + RESERVE_GIB
    # Drivers show a little less than the name says: 24 and 80 GB cards are taken as so many GiB
    # less 2 %.
    fits = ["yes" if least <= 0.98 * card else "no" for card in (24, 80)]
    return [*(f"{one / GIB:.1f}" for one in parts), f"{least:.1f}", *fits]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(f"{sizing_table()}\n")
