"""Perplexity of quantised weights beside float32, on 50,000 tokens of real text."""

import math
import os

import torch
from bem.engine.linear import Int4Linear
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.engine.engine_fixture import DecodeLoop, load, text_ids
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {
    "int8 / fp32": Target(1.02, True),
    "int4 / fp32": Target(1.05, True),
    "int8, torch / fp32": Target(1.02, True),
    "int4, torch / fp32": Target(1.05, True),
}
WINDOW = 512
TOKENS = int(os.environ.get("BENCH_PERPLEXITY_TOKENS", "50000"))


def nats_per_token(ours: DecodeLoop, windows: Tensor) -> float:
    """Return the mean negative log-likelihood per token of ``windows [N, WINDOW]``."""
    decoder, total = ours.decoder, 0.0
    with torch.inference_mode():
        for window in windows:
            span = decoder.plan([0], [0], WINDOW)
            hidden = decoder.upper(decoder.lower(window[None], span)[0], span)
            for at in range(0, WINDOW - 1, 128):
                wanted = window[at + 1 : at + 129]
                part = hidden[0, at : at + len(wanted), None]
                total += float(cross_entropy(decoder.logits(part), wanted, reduction="sum"))
    return total / (len(windows) * (WINDOW - 1))


def run(rounds: int, tokens: int = TOKENS) -> Measurement:
    """Score windows of 512 tokens in each weight format; ``rounds`` is ignored."""
    del rounds
    loaded = load("fp32")
    ids = text_ids(loaded.tokenizer, tokens)
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    losses = {}
    for name in ("fp32", *(target.split(" /", maxsplit=1)[0] for target in TARGETS)):
        kind, _, kernels = name.partition(", ")
        held = load(kind, "torch" if kernels else "auto")
        ours = DecodeLoop(held, None, rows=1, context=WINDOW)
        for product in ours.decoder.linears:
            if isinstance(product, Int4Linear):
                product.max_int4_rows = WINDOW
        losses[name] = nats_per_token(ours, windows)
    base = losses["fp32"]
    change = {name: round(math.exp(loss - base), 5) for name, loss in losses.items()}
    return Measurement(
        figures={
            "tokens": windows.numel(),
            "perplexity": {name: round(math.exp(loss), 4) for name, loss in losses.items()},
        },
        ratios={target: change[target.split(" /", maxsplit=1)[0]] for target in TARGETS},
        notes=["fp32 is the Q4_1 file as de-quantised; text: the passages of the question set"],
    )
