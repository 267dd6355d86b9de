"""Decode throughput with another adapter per row, beside none and beside peft's mixed batch."""

from typing import Any

import torch
from bem.adapters.bank import AdapterBank
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
    Rates,
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


def sixteen_rows(ours: DecodeLoop, bank: AdapterBank, rounds: int) -> Rates:
    """Return decode rates of 16 rows without adapters and with one each."""
    ids = torch.full((16, 1), 504)

    def decode(adapters: int) -> float:
        ours.ids = ids
        if adapters:
            bank.row_codes.set(torch.arange(adapters)[:, None], torch.ones(adapters, 1, RANK))
        else:
            bank.row_codes.clear()
        return per_second(lambda: ours.run(STEPS), 16 * STEPS)

    sides = {"none": lambda: decode(0), "16 adapters": lambda: decode(16)}
    return alternating_rates(sides, 2 * rounds)


def sixty_four_rows(ours: DecodeLoop, bank: AdapterBank, rounds: int) -> Rates:
    """Return rates of forward passes of one token in 64 rows with an adapter each."""
    theirs, names = peft_mixed(64), [str(row) for row in range(64)]
    ids = torch.full((64, 1), 504)

    def mine() -> float:
        bank.row_codes.set(torch.arange(64)[:, None], torch.ones(64, 1, RANK))
        return per_second(lambda: ours.forward(ids, 0), 64)

    def mixed() -> float:
        with torch.inference_mode():
            return per_second(lambda: theirs(input_ids=ids, adapter_names=names), 64)

    return alternating_rates({"ours": mine, "peft mixed": mixed}, rounds)


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows, then forward passes of 64 rows of one token at position 0."""
    loaded = load()
    bank, _ = install_random_adapters(loaded, slots=64)
    ours = DecodeLoop(loaded, bank, rows=64)
    few = sixteen_rows(ours, bank, rounds)
    many = sixty_four_rows(ours, bank, rounds)
    return Measurement(
        figures={
            "weights": loaded.weight_format,
            "16 rows": medians(few),
            "64 rows": medians(many),
        },
        ratios={
            "16 adapters / none": ratio(few["16 adapters"], few["none"]),
            "64 adapters / peft mixed": ratio(many["ours"], many["peft mixed"]),
        },
        notes=[
            f"rank {RANK}, o_proj and down_proj of layers {FIRST_LAYER} to {LAYERS - 1}",
            "peft computes in float32",
        ],
    )
