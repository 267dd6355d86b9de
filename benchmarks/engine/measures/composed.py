"""What sites cost when nothing is active, and with five missions at once."""

import torch

from benchmarks.engine.engine_fixture import RANK, DecodeLoop, backbone, with_sites
from benchmarks.engine.measurement import Measurement, Target, medians, per_second, rates, ratio
from benchmarks.engine.measures.adapters import peft_mixed

TARGETS = {
    "idle / bare": Target(0.985),
    "five / bare": Target(0.8),
    "five / peft with five": Target(1.5),
}
STEPS, ROWS = 8, 16


def run(rounds: int) -> Measurement:
    """Time decode steps of 16 rows, and one token at position 0 beside peft."""
    held = backbone()
    bare_weights, bare = held.weights, DecodeLoop(held, None, rows=ROWS)
    loaded = backbone(bare_weights)
    bank, _ = with_sites(loaded, slots=8)
    ours = DecodeLoop(loaded, bank, rows=ROWS)
    theirs = peft_mixed(5)
    theirs.base_model.set_adapter([str(name) for name in range(5)])
    ids = bare.ids
    bank.rows.clear()
    same = torch.equal(bare.forward(ids, 0), ours.forward(ids, 0))

    def compose() -> None:
        bank.rows.set(torch.arange(5).repeat(ROWS, 1), torch.ones(ROWS, 5, RANK))

    def idle() -> float:
        bank.rows.clear()
        return per_second(lambda: ours.steps(STEPS), ROWS * STEPS)

    def five() -> float:
        compose()
        return per_second(lambda: ours.steps(STEPS), ROWS * STEPS)

    def one() -> float:
        compose()
        return per_second(lambda: ours.forward(ids, 0), ROWS)

    def peft() -> float:
        with torch.inference_mode():
            return per_second(lambda: theirs(input_ids=ids), ROWS)

    sides = {"bare": lambda: per_second(lambda: bare.steps(STEPS), ROWS * STEPS)}
    steps = rates(sides | {"idle": idle, "five": five}, 3 * rounds)
    single = rates({"ours": one, "peft with five": peft}, rounds)
    return Measurement(
        figures={
            "weights": loaded.weights,
            "steps": medians(steps),
            "one token": medians(single),
            "idle logits bit-identical": same,
        },
        ratios={
            "idle / bare": ratio(steps["idle"], steps["bare"]),
            "five / bare": ratio(steps["five"], steps["bare"]),
            "five / peft with five": ratio(single["ours"], single["peft with five"]),
        },
        notes=["the five composed adapters lie in the sites as five slots a row"],
    )
