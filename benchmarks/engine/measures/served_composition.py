"""Decode throughput of composed rows: projected factors, and factors of the trust region.

``composed`` measures five adapters that share one code. Here each row runs what a request with the
safety adapter, its own adapter and another one runs: three columns, and a factor at each site.
"""

import torch

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

TARGETS = {"composed / bare": Target(0.8), "bounded / composed": Target(0.95)}
STEPS, ROWS, ADAPTERS = 8, 16, 3


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows with three adapters each, without and with a bound."""
    without_sites = load()
    bare = DecodeLoop(without_sites, None, rows=ROWS)
    loaded = load(without_sites.weight_format)
    bank, sites = install_random_adapters(loaded, slots=8)
    ours = DecodeLoop(loaded, bank, rows=ROWS)
    slots, codes = torch.arange(ADAPTERS).repeat(ROWS, 1), torch.ones(ROWS, ADAPTERS, RANK)
    factors = torch.full((len(sites), ROWS), 0.5)

    def steps_of(loop: DecodeLoop, site_factors: torch.Tensor | None) -> float:
        bank.row_codes.set(slots, codes, site_factors)
        return per_second(lambda: loop.run(STEPS), ROWS * STEPS)

    sides: Sides = {
        "bare": lambda: steps_of(bare, None),
        "composed": lambda: steps_of(ours, None),
        "bounded": lambda: steps_of(ours, factors),
    }
    rates = alternating_rates(sides, 3 * rounds)
    return Measurement(
        figures={"weights": loaded.weight_format, "steps": medians(rates)},
        ratios={
            "composed / bare": ratio(rates["bounded"], rates["bare"]),
            "bounded / composed": ratio(rates["bounded"], rates["composed"]),
        },
        notes=["factors of the trust region are computed once for each code, not for each step"],
    )
