"""Decode throughput with idle adapter sites, and with five adapters composed per row."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.engine.engine_fixture import RANK, DecodeLoop, install_random_adapters, load
from benchmarks.engine.measurement import (
    Measurement,
    Sides,
    Target,
    alternating_rates,
    medians,
    per_second,
    ratio,
)
from benchmarks.engine.measures.adapters import peft_mixed

TARGETS = {
    "idle / bare": Target(0.985),
    "five / bare": Target(0.8),
    "five / peft with five": Target(1.5),
}
STEPS, ROWS = 8, 16


def decode_steps(
    bare: DecodeLoop, ours: DecodeLoop, compose: Callable[[], None], idle: Callable[[], None]
) -> Sides:
    """Return what times decode steps without sites, with idle sites and with five adapters."""

    def steps_of(loop: DecodeLoop, prepare: Callable[[], None]) -> float:
        prepare()
        return per_second(lambda: loop.run(STEPS), ROWS * STEPS)

    return {
        "bare": lambda: steps_of(bare, idle),
        "idle": lambda: steps_of(ours, idle),
        "five": lambda: steps_of(ours, compose),
    }


def one_token(ours: DecodeLoop, compose: Callable[[], None], ids: Tensor) -> Sides:
    """Return what times forward passes of one token with five adapters, beside peft's."""
    theirs = peft_mixed(5)
    theirs.base_model.set_adapter([str(name) for name in range(5)])

    def mine() -> float:
        compose()
        return per_second(lambda: ours.forward(ids, 0), ROWS)

    def peft() -> float:
        with torch.inference_mode():
            return per_second(lambda: theirs(input_ids=ids), ROWS)

    return {"ours": mine, "peft with five": peft}


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows, and forward passes of one token at position 0 beside peft."""
    without_sites = load()
    bare = DecodeLoop(without_sites, None, rows=ROWS)
    loaded = load(without_sites.weight_format)
    bank, _ = install_random_adapters(loaded, slots=8)
    ours, ids = DecodeLoop(loaded, bank, rows=ROWS), bare.ids
    bank.row_codes.clear()
    same = torch.equal(bare.forward(ids, 0), ours.forward(ids, 0))

    def compose() -> None:
        bank.row_codes.set(torch.arange(5).repeat(ROWS, 1), torch.ones(ROWS, 5, RANK))

    sides = decode_steps(bare, ours, compose, bank.row_codes.clear)
    steps = alternating_rates(sides, 3 * rounds)
    single = alternating_rates(one_token(ours, compose, ids), rounds)
    return Measurement(
        figures={
            "weights": loaded.weight_format,
            "steps": medians(steps),
            "one token": medians(single),
            "idle logits bit-identical": same,
        },
        ratios={
            "idle / bare": ratio(steps["idle"], steps["bare"]),
            "five / bare": ratio(steps["five"], steps["bare"]),
            "five / peft with five": ratio(single["ours"], single["peft with five"]),
        },
        notes=["the five composed adapters use five slots per row of the sites"],
    )
