"""Throughput of a single request: decoding, and prefill of 512 tokens."""

import torch
from bem.backbone import load_backbone

from benchmarks.engine.engine_fixture import CACHE, DecodeLoop, load
from benchmarks.engine.measurement import (
    Measurement,
    Target,
    alternating_rates,
    medians,
    per_second,
    ratio,
)

TARGETS: dict[str, Target] = {}
TOKENS, PROMPT, THEIRS = 32, 512, 8


def run(rounds: int) -> Measurement:
    """Compare with llama.cpp and with transformers' own cache and forward in float32."""
    result = Measurement()
    loaded = load()
    result.figures["weights"] = loaded.weight_format
    ours = DecodeLoop(loaded, None, rows=1)
    ids = torch.arange(500, 500 + PROMPT)[None]
    model = load_backbone(cache=CACHE).model

    def theirs() -> None:
        with torch.inference_mode():
            past = model(input_ids=ids[:, :64], use_cache=True)
            for _ in range(THEIRS):
                token = past.logits[:, -1:].argmax(-1)
                past = model(input_ids=token, past_key_values=past.past_key_values, use_cache=True)

    decode = {
        "ours": lambda: per_second(lambda: ours.run(TOKENS), TOKENS),
        "transformers": lambda: per_second(theirs, THEIRS),
    }
    prefill = {"ours": lambda: per_second(lambda: ours.forward(ids, 0), PROMPT)}
    decoded, filled = alternating_rates(decode, rounds), alternating_rates(prefill, rounds)
    result.figures |= {"decode_tokens_per_s": medians(decoded), "prefill": medians(filled)}
    result.ratios = {"decode / transformers": ratio(decoded["ours"], decoded["transformers"])}
    result.notes.append("transformers' decode includes its prompt of 64 tokens")
    return result
