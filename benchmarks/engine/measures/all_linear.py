"""Decode throughput with a LoRA of all linear layers of all layers per row, beside none."""

import torch
from bem.adapters.bank import AdapterBank

from benchmarks.engine.engine_fixture import RANK, DecodeLoop, install_random_adapters, load
from benchmarks.engine.measurement import (
    Measurement,
    Rates,
    Target,
    alternating_rates,
    medians,
    per_second,
    ratio,
)

TARGETS = {"16 all-linear / none": Target(0.8)}
ROWS, STEPS = 16, 8
SIDES = {"none": None, "16 all-linear": range(ROWS), "16 driven": range(ROWS, 2 * ROWS)}
"""Slots of the rows on each side; the second half holds adapters of the driven sites only."""


def decode_rates(loop: DecodeLoop, bank: AdapterBank, rounds: int) -> Rates:
    """Return decode rates of 16 rows on each side, in tokens per second."""
    ids = torch.full((ROWS, 1), 504)

    def decode(slots: range | None) -> float:
        loop.ids = ids
        for half in (bank.lower_codes, bank.row_codes):
            half.clear()
            if slots is not None:
                half.set(torch.tensor(list(slots))[:, None], torch.ones(ROWS, 1, RANK))
        return per_second(lambda: loop.run(STEPS), ROWS * STEPS)

    sides = {name: lambda slots=slots: decode(slots) for name, slots in SIDES.items()}
    return alternating_rates(sides, 2 * rounds)


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows without adapters, with LoRAs, and with driven adapters."""
    figures: dict[str, object] = {}
    ratios: dict[str, float | None] = {}
    for kind in ("auto", "fp32"):
        loaded = load(kind)
        bank, _ = install_random_adapters(loaded, slots=2 * ROWS, linear=True)
        for site in bank.linear.sites.values():
            for slot in SIDES["16 driven"] or ():
                site.write(slot, None, 1.0)
        rates = decode_rates(DecodeLoop(loaded, bank, rows=ROWS), bank, rounds)
        label = "" if kind == "auto" else " (fp32)"
        figures[f"weights{label}"] = loaded.weight_format
        figures[f"tokens/s{label}"] = medians(rates)
        for name in ("16 all-linear", "16 driven"):
            ratios[f"{name} / none{label}"] = ratio(rates[name], rates["none"])
    return Measurement(
        figures=figures,
        ratios=ratios,
        notes=[
            f"rank {RANK}; driven adapters have o_proj and down_proj of the upper 15 layers",
        ],
    )
