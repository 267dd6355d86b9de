"""Overhead of the data and evaluation pipelines: ``python -m benchmarks.pipeline``.

One run times three things: the data pipeline on one dataset, cold and cached; an evaluation of all
held-out items by systems that return recorded replies at once, which is pipeline time only; and the
model on some of the items, directly through its worker and through the pipeline in turn, with the
CPU time of the pipeline's thread. The overhead is pipeline time over the model time of all items.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import load_backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem_fleet.data.datasets import get_dataset, question_word
from bem_fleet.data.held_out import final_evaluation
from bem_fleet.data.passage_qa import PassageQADataset, few_shot_examples, load_passage_qa
from bem_fleet.data.pipeline import run_dataset
from bem_fleet.evaluation.execution import ResponseCache, collect_responses
from bem_fleet.evaluation.pipeline import Comparison, StageTimer, evaluate, write_report
from bem_fleet.evaluation.systems import (
    Chat,
    ComparisonSide,
    Decoding,
    EvaluationItem,
    Response,
    SystemRun,
)
from bem_fleet.evaluation.worker_system import WorkerSystem

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
DATASET = "narrative-qa"
SAMPLE_ITEMS = 8
ROUNDS = 3
TARGET = 0.02


class RecordedSystem:
    """System that returns the replies of a committed report."""

    def __init__(self, name: str, replies: dict[str, str]) -> None:
        self.name = name
        self.digest = f"recorded {name}"
        self._replies = replies

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Yield the recorded replies."""
        del decoding, seed
        for place, chat in enumerate(chats):
            yield place, Response(self._replies[chat[-1].content], 300, 12)


def measure_data_pipeline() -> dict[str, Any]:
    """Time all stages on one dataset, cold and cached."""
    spec = get_dataset(DATASET)
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            made = run_dataset(spec, Path(folder))
            seconds.append(time.perf_counter() - began)
    rows = made["raw"].rows
    return {
        "set": DATASET,
        "rows": rows,
        "cold_s": round(seconds[0], 2),
        "cold_rows_per_s": round(rows / seconds[0]),
        "rerun_s": round(seconds[1], 3),
    }


def _held_out_items(data: PassageQADataset) -> tuple[EvaluationItem, ...]:
    """Return the items that the recorded replies answer."""
    with final_evaluation("make bench-pipeline"):
        return tuple(
            EvaluationItem(i.key, i.prompt(), (i.answer,), question_word(i.question))
            for i in data.splits["held_out"]
        )


def pipeline_seconds(report: dict[str, Any]) -> tuple[dict[str, float], int, int]:
    """Return the pipeline seconds by stage, and the numbers of items and of responses."""
    stages = StageTimer()
    with tempfile.TemporaryDirectory() as folder, stages.time("data"):
        run_dataset(get_dataset("disfl-qa"), Path(folder))
        data = load_passage_qa()
        items = _held_out_items(data)
    prompts = [item.prompt for item in items]
    said = {
        "adapter": report["replies"]["mission"][0],
        "base with two examples": report["replies"]["baseline"][0],
        "base": report["others"][0]["replies"]["baseline"][0],
    }
    runs = {
        name: (SystemRun(RecordedSystem(name, dict(zip(prompts, texts, strict=True)))),)
        for name, texts in said.items()
    }
    shots = tuple((shot.prompt(), shot.reply()) for shot in few_shot_examples(data))
    comparison = Comparison(
        id="bench_pipeline",
        mission=ComparisonSide("adapter", runs["adapter"], "strict"),
        baselines=(
            ComparisonSide(
                "base with two examples", runs["base with two examples"], "lenient", shots
            ),
            ComparisonSide("base", runs["base"], "lenient"),
        ),
        items=items,
        data_name="passage-qa, held_out",
        data_digest=data.digest,
        command="make bench-pipeline",
    )
    with tempfile.TemporaryDirectory() as folder:
        made = evaluate(comparison, cache=Path(folder) / "cache", stages=stages)
        with stages.time("report"):
            write_report(made, Path(folder) / "report")
    return stages.seconds, len(items), len(items) * len(said)


def worker_seconds(worker: LLMEngine, chats: Sequence[Chat], adapter: str | None) -> float:
    """Return the seconds of the worker alone for the conversations."""
    done: SimpleQueue[OutputDelta | Exception] = SimpleQueue()
    tokenizer = worker.backbone.tokenizer
    prompts = []
    for chat in chats:
        turns = [{"role": turn.role, "content": turn.content} for turn in chat]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompts.append(tuple(tokenizer.encode(text, add_special_tokens=False)))
    began = time.perf_counter()
    for ids in prompts:
        request = GenerationRequest(
            prompt_ids=ids, sampling=Sampling(temperature=0), max_tokens=48, adapter=adapter
        )
        worker.submit(request, partial(SimpleQueue.put, done))
    left = len(prompts)
    while left:
        piece = done.get()
        assert isinstance(piece, OutputDelta), piece
        left -= piece.finish is not None
    return time.perf_counter() - began


def measure_model() -> dict[str, Any]:
    """Time the model on some items, directly and through the pipeline, in turn."""
    data = load_passage_qa()
    backbone = load_backbone(cache=ROOT / ".cache/models")
    folder = ROOT / "adapters/passage-qa"
    bank = AdapterBank.for_artifact(backbone, folder, slots=1)
    bank.load(folder)
    worker = LLMEngine(
        backbone, bank, max_sequences=SAMPLE_ITEMS, max_waiting=64, context_tokens=2048
    )
    worker.start()
    chosen = data.splits["dev"][:SAMPLE_ITEMS]
    items = [EvaluationItem(i.key, i.prompt(), (i.answer,)) for i in chosen]
    side = ComparisonSide("adapter", (SystemRun(WorkerSystem(worker, "passage-qa")),), "strict")
    chats = [side.chat(item) for item in items]
    worker_seconds(worker, chats[:2], "passage-qa")
    alone, within, own = [], [], []
    for _ in range(ROUNDS):
        alone.append(worker_seconds(worker, chats, "passage-qa"))
        with tempfile.TemporaryDirectory() as cache:
            began, thread = time.perf_counter(), time.thread_time()
            collect_responses(side, items, Decoding(), ResponseCache(Path(cache) / "answers.jsonl"))
            within.append(time.perf_counter() - began)
            own.append(time.thread_time() - thread)
    worker.close(drain=True)
    pairs = [w / a - 1 for a, w in zip(alone, within, strict=True)]
    return {
        "items": SAMPLE_ITEMS,
        "straight_s": [round(value, 2) for value in alone],
        "through_execution_s": [round(value, 2) for value in within],
        "wall_against_straight": [round(pair, 4) for pair in pairs],
        "own_thread_s_per_item": round(statistics.median(own) / SAMPLE_ITEMS, 5),
        "model_s_per_item": round(min(alone) / SAMPLE_ITEMS, 3),
    }


def main() -> None:
    """Measure and write ``results/bench_pipeline.{json,md}``."""
    recorded = json.loads((OUT / "passage_qa_fleet.json").read_text())
    pipeline_seconds(recorded)  # warm-up: imports and fonts load once per process
    seconds, items, answers = pipeline_seconds(recorded)
    model = measure_model()
    # Tokenisation, cache and progress bar overlap with the engine's thread, but count in full.
    seconds["beside the model"] = answers * model["own_thread_s_per_item"]
    own = sum(seconds.values())
    whole = answers * model["model_s_per_item"]
    report = {
        "data_pipeline": measure_data_pipeline(),
        "own_s": {name: round(value, 3) for name, value in seconds.items()},
        "own_total_s": round(own, 2),
        "items": items,
        "answers": answers,
        "pipeline_answers_per_s": round(answers / own, 1),
        "model": model,
        "model_answers_per_s": round(1 / model["model_s_per_item"], 2),
        "overhead": round(own / whole, 4),
        "target": TARGET,
        "met": own / whole <= TARGET,
        "threads": torch.get_num_threads(),
        "command": "make bench-pipeline",
    }
    (OUT / "bench_pipeline.json").write_text(json.dumps(report, indent=1) + "\n")
    text = _render_markdown(report)
    (OUT / "bench_pipeline.md").write_text(text)
    print(text)


def _render_markdown(report: dict[str, Any]) -> str:
    data, model = report["data_pipeline"], report["model"]
    stages = ", ".join(f"{name} {value}" for name, value in report["own_s"].items())
    rows = [
        (
            "data pipeline, rows/s",
            f"{data['cold_rows_per_s']} ({data['set']}, {data['rows']} rows)",
        ),
        ("data pipeline, everything done before", f"{data['rerun_s']} s"),
        ("evaluation without its model, answers/s", report["pipeline_answers_per_s"]),
        ("its seconds by stage", stages),
        ("model alone, answers/s", report["model_answers_per_s"]),
        ("wall of execution over the worker alone, by turn", model["wall_against_straight"]),
        (
            f"overhead on {report['answers']} answers (target {report['target']})",
            report["overhead"],
        ),
    ]
    lines = ["# The pipelines beside the model", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", f"`{report['command']}`; {report['threads']} threads."]
    lines.append(
        "The model's time an answer is the adapter's, with its short replies, the fastest turn of "
        "all, whose prompts are cached from the first: the cheapest model time there is here, so "
        "that the overhead is an upper bound. "
        "The comparison by wall time is noisier than the target; the pipeline's own thread, timed "
        "by its CPU clock while the model works, is not, and is part of the overhead."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
