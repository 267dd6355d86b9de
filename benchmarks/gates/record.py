"""Record the real traces: ``python -m benchmarks.gates.record``, some minutes.

The held-out passage questions are answered one at a time, at temperature 0.7: by the adapter with
two seeds, which are the two arms of an A/A canary, and by the base model with two solved
examples, which some requests of a worse canary get.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from bem.adapters.bank import AdapterBank
from bem.backbone import load_backbone
from bem.engine import LLMEngine
from bem_fleet.data.passage_qa import load_passage_qa, solved_examples
from bem_fleet.evaluation.in_process import WorkerSystem
from bem_fleet.evaluation.systems import Decoding, Item, Run, Side
from bem_fleet.scores.metrics import READINGS

from benchmarks.gates.recorded import ARMS, FILE

ROOT = Path(__file__).resolve().parents[2]
TEMPERATURE = 0.7


def record(cached: Path) -> dict[str, Any]:
    """Answer every item with every arm, one request at a time."""
    data = load_passage_qa()
    backbone = load_backbone(cache=cached)
    folder = ROOT / "adapters/passage-qa"
    bank = AdapterBank.shaped_for(backbone, folder, slots=1)
    name = bank.load(folder).name
    worker = LLMEngine(backbone, bank, max_sequences=1, max_waiting=8, context_tokens=2048)
    worker.start()
    adapter, base = WorkerSystem(worker, name), WorkerSystem(worker)
    shots = tuple((shot.prompt(), shot.reply()) for shot in solved_examples(data))
    sides = {
        "first": Side("adapter", (Run(adapter, 1),), "strict"),
        "second": Side("adapter", (Run(adapter, 2),), "strict"),
        "worse": Side("base with two examples", (Run(base, 3),), "lenient", shots),
    }
    found: dict[str, Any] = {arm: {"quality": [], "latency": [], "violation": []} for arm in sides}
    for given in data.splits["held_out"]:
        item = Item(given.key, given.prompt(), (given.answer,))
        # The arms in turn, so that what else the machine does meets all of them.
        for arm, side in sides.items():
            began = time.perf_counter()
            ((_, answer),) = side.runs[0].system.answer(
                [side.chat(item)], Decoding(TEMPERATURE), side.runs[0].seed
            )
            taken = time.perf_counter() - began
            scores = {
                name: of(answer.text, item.golds) for name, of in READINGS[side.reading].items()
            }
            found[arm]["quality"].append(scores["exact_match"])
            found[arm]["latency"].append(round(taken, 4))
            found[arm]["violation"].append(1 - scores["valid"])
    worker.close(drain=True)
    return {
        "command": "python -m benchmarks.gates.record",
        "adapter": adapter.digest,
        "data": data.digest,
        "temperature": TEMPERATURE,
        **found,
    }


def main() -> None:
    """Record and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/models")
    made = record(parser.parse_args().cache)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for arm in ARMS:
        print(arm, {name: round(float(np.mean(v)), 3) for name, v in made[arm].items()})


if __name__ == "__main__":
    main()
