"""Decode throughput with another adapter per row, beside none and beside peft's mixed batch."""

from typing import Any

import torch
from bem.backbone import load_backbone
from peft import LoraConfig, get_peft_model

from benchmarks.engine.engine_fixture import (
    CACHE,
    FIRST_LAYER,
    LAYERS,
    RANK,
    DecodeLoop,
    install_random_adapters,
    load,
)
from benchmarks.engine.measurement import (
    Measurement,
    Target,
    alternating_rates,
    medians,
    per_second,
    ratio,
)

TARGETS = {"16 adapters / none": Target(0.9), "64 adapters / peft mixed": Target(4.0)}
STEPS = 8


def peft_mixed(adapters: int) -> Any:
    """Return transformers' model with as many LoRA adapters at the same place_tokens."""
    model = load_backbone(cache=CACHE).model
    config = LoraConfig(
        r=RANK,
        target_modules=["o_proj", "down_proj"],
        layers_to_transform=list(range(FIRST_LAYER, LAYERS)),
        init_lora_weights=False,
    )
    mixed = get_peft_model(model, config, adapter_name="0")
    for name in range(1, adapters):
        mixed.add_adapter(str(name), config)
    return mixed.eval()


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows, then forward passes of 64 rows of one token at position 0."""
    result = Measurement()
    loaded = load()
    bank, _ = install_random_adapters(loaded, slots=64)
    ours = DecodeLoop(loaded, bank, rows=64)
    theirs = peft_mixed(64)
    names = [str(row) for row in range(64)]
    ids = torch.full((64, 1), 504)

    def set_rows(rows: int) -> None:
        bank.row_codes.set(torch.arange(rows)[:, None], torch.ones(rows, 1, RANK))

    def sixteen(active: int) -> float:
        ours.ids = ids[:16]
        if active:
            set_rows(16)
        else:
            bank.row_codes.clear()
        return per_second(lambda: ours.run(STEPS), 16 * STEPS)

    def mine() -> float:
        set_rows(64)
        return per_second(lambda: ours.forward(ids, 0), 64)

    def mixed() -> float:
        with torch.inference_mode():
            return per_second(lambda: theirs(input_ids=ids, adapter_names=names), 64)

    few = alternating_rates(
        {"none": lambda: sixteen(0), "16 adapters": lambda: sixteen(16)}, 2 * rounds
    )
    many = alternating_rates({"ours": mine, "peft mixed": mixed}, rounds)
    result.figures = {
        "weights": loaded.weight_format,
        "16 rows": medians(few),
        "64 rows": medians(many),
    }
    result.ratios = {
        "16 adapters / none": ratio(few["16 adapters"], few["none"]),
        "64 adapters / peft mixed": ratio(many["ours"], many["peft mixed"]),
    }
    result.notes = [
        f"rank {RANK}, o_proj and down_proj of layers {FIRST_LAYER} to {LAYERS - 1}",
        "peft computes in float32",
    ]
    return result
