"""Recorder of traces of the real model: ``python -m benchmarks.gates.record_traces``, some minutes.

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
from bem_fleet.data.held_out import final_evaluation
from bem_fleet.data.passage_qa import (
    PassageQADataset,
    PassageQuestion,
    few_shot_examples,
    load_passage_qa,
)
from bem_fleet.evaluation.systems import ComparisonSide, Decoding, EvaluationItem, SystemRun
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.scores.metrics import SCORING_MODES

from benchmarks.gates.recorded_traces import ARMS, FILE

ROOT = Path(__file__).resolve().parents[2]
TEMPERATURE = 0.7


def _held_out_questions(data: PassageQADataset) -> list[PassageQuestion]:
    with final_evaluation("python -m benchmarks.gates.record_traces"):
        return data.splits["held_out"]


def record_traces(cached: Path) -> dict[str, Any]:
    """Answer every item with every arm, one request at a time."""
    data = load_passage_qa()
    backbone = load_backbone(cache=cached)
    folder = ROOT / "adapters/passage-qa"
    bank = AdapterBank.for_artifact(backbone, folder, slots=1)
    name = bank.load(folder).name
    worker = LLMEngine(backbone, bank, max_sequences=1, max_waiting=8, context_tokens=2048)
    worker.start()
    adapter, base = WorkerSystem(worker, name), WorkerSystem(worker)
    shots = tuple((shot.prompt(), shot.reply()) for shot in few_shot_examples(data))
    sides = {
        "first": ComparisonSide("adapter", (SystemRun(adapter, 1),), "strict"),
        "second": ComparisonSide("adapter", (SystemRun(adapter, 2),), "strict"),
        "worse": ComparisonSide("base with two examples", (SystemRun(base, 3),), "lenient", shots),
    }
    found: dict[str, Any] = {arm: {"quality": [], "latency": [], "violation": []} for arm in sides}
    for given in _held_out_questions(data):
        item = EvaluationItem(given.key, given.prompt(), (given.answer,))
        # The arms in turn, so that what else the machine does meets all of them.
        for arm, side in sides.items():
            began = time.perf_counter()
            ((_, answer),) = side.runs[0].system.respond(
                [side.chat(item)], Decoding(TEMPERATURE), side.runs[0].seed
            )
            taken = time.perf_counter() - began
            scores = {
                name: of(answer.text, item.golds)
                for name, of in SCORING_MODES[side.scoring_mode].items()
            }
            found[arm]["quality"].append(scores["exact_match"])
            found[arm]["latency"].append(round(taken, 4))
            found[arm]["violation"].append(1 - scores["valid"])
    worker.close(drain=True)
    return {
        "command": "python -m benchmarks.gates.record_traces",
        "adapter": adapter.digest,
        "data": data.digest,
        "temperature": TEMPERATURE,
        **found,
    }


def main() -> None:
    """Record and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/models")
    made = record_traces(parser.parse_args().cache)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for arm in ARMS:
        print(arm, {name: round(float(np.mean(v)), 3) for name, v in made[arm].items()})


if __name__ == "__main__":
    main()
