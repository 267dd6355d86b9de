"""1,024 skills resident at once: steps of 16 rows whose skills change with every request."""

import statistics
import time

import torch

from benchmarks.engine.found import Found, Target
from benchmarks.engine.subject import RANK, Stepper, backbone, with_sites

NAME = "many"
TARGETS = {"1,024 skills / one": Target(0.9), "p95 of 1,024 / p95 of one": Target(1.25, True)}
SKILLS, ROWS, STEPS, REQUEST_STEPS = 1024, 16, 96, 16


def run(rounds: int) -> Found:
    """Time single steps; a row leaves and another of a random skill comes every step."""
    loaded = backbone()
    bank, _ = with_sites(loaded, slots=SKILLS)
    ours = Stepper(loaded, bank, rows=ROWS)
    generator = torch.Generator().manual_seed(1)
    seconds: dict[str, list[float]] = {"one": [], "1,024": []}
    for _ in range(rounds + 1):
        for name, skills in (("one", 1), ("1,024", SKILLS)):
            slots = torch.randint(0, skills, (ROWS, 1), generator=generator)
            for step in range(STEPS // rounds):
                slots[step % ROWS] = torch.randint(0, skills, (1,), generator=generator)
                began = time.perf_counter()
                bank.rows.set(slots, torch.ones(ROWS, 1, RANK))
                ours.forward(ours.ids, 64 + step)
                seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    tail = {name: statistics.quantiles(taken, n=20)[-1] for name, taken in seconds.items()}
    return Found(
        figures={
            "weights": loaded.weights,
            "median_ms": {name: round(1e3 * s, 2) for name, s in middle.items()},
            "p95_ms": {name: round(1e3 * s, 2) for name, s in tail.items()},
        },
        ratios={
            "1,024 skills / one": round(middle["one"] / middle["1,024"], 3),
            "p95 of 1,024 / p95 of one": round(tail["1,024"] / tail["one"], 3),
        },
        notes=["all 1,024 are resident: 1.6 GB; a smaller resident set is the bank's to page"],
    )
