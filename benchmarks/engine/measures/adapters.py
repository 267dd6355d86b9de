"""Rows that each use another adapter, beside none, and beside peft's mixed batch."""

from typing import Any

import torch
from bem.backbone import load_backbone
from peft import LoraConfig, get_peft_model

from benchmarks.engine.found import Found, Target, medians, per_second, rates, ratio
from benchmarks.engine.subject import CACHE, FIRST, LAYERS, RANK, Stepper, backbone, with_sites

TARGETS = {"16 adapters / none": Target(0.9), "64 adapters / peft mixed": Target(4.0)}
STEPS = 8


def peft_mixed(adapters: int) -> Any:
    """Return transformers' model with as many LoRA adapters at the same places."""
    model = load_backbone(cache=CACHE).model
    config = LoraConfig(
        r=RANK,
        target_modules=["o_proj", "down_proj"],
        layers_to_transform=list(range(FIRST, LAYERS)),
        init_lora_weights=False,
    )
    mixed = get_peft_model(model, config, adapter_name="0")
    for name in range(1, adapters):
        mixed.add_adapter(str(name), config)
    return mixed.eval()


def run(rounds: int) -> Found:
    """Time decode steps of 16 rows, then steps of 64 rows of one token at position 0."""
    found = Found()
    loaded = backbone()
    bank, _ = with_sites(loaded, slots=64)
    ours = Stepper(loaded, bank, rows=64)
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
        return per_second(lambda: ours.steps(STEPS), 16 * STEPS)

    def mine() -> float:
        set_rows(64)
        return per_second(lambda: ours.forward(ids, 0), 64)

    def mixed() -> float:
        with torch.inference_mode():
            return per_second(lambda: theirs(input_ids=ids, adapter_names=names), 64)

    few = rates({"none": lambda: sixteen(0), "16 adapters": lambda: sixteen(16)}, 2 * rounds)
    many = rates({"ours": mine, "peft mixed": mixed}, rounds)
    found.figures = {
        "weights": loaded.weight_format,
        "16 rows": medians(few),
        "64 rows": medians(many),
    }
    found.ratios = {
        "16 adapters / none": ratio(few["16 adapters"], few["none"]),
        "64 adapters / peft mixed": ratio(many["ours"], many["peft mixed"]),
    }
    found.notes = [
        f"rank {RANK}, o_proj and down_proj of layers {FIRST} to {LAYERS - 1}; peft in float32"
    ]
    return found
