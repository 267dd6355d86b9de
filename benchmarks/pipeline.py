"""The pipelines beside the model's own time: ``python -m benchmarks.pipeline``.

Three things are timed in one run. The data pipeline on a whole set, cold and again. An
evaluation of all held-out items by systems that answer at once with recorded replies: all that it
takes is the pipeline's own. The model on a few of the same items, straight through its worker and
through the pipeline's execution, in turns, with the CPU time of the pipeline's thread. Overhead is
the pipeline's own time over the time that the model would take for all items.
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
from bem_fleet.data.passage_qa import load_passage_qa, solved_examples
from bem_fleet.data.pipeline import run_set
from bem_fleet.data.readers import question_kind, set_named
from bem_fleet.evaluation.execution import AnswerCache, execute
from bem_fleet.evaluation.in_process import WorkerSystem
from bem_fleet.evaluation.pipeline import Comparison, Stages, evaluate, write
from bem_fleet.evaluation.systems import Answer, Chat, Decoding, Item, Run, Side

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
SET = "narrative-qa"
SAMPLE = 8
TURNS = 3
TARGET = 0.02


class Recorded:
    """Answers at once with the replies of a committed report."""

    def __init__(self, name: str, replies: dict[str, str]) -> None:
        self.name = name
        self.digest = f"recorded {name}"
        self._replies = replies

    def answer(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the recorded replies."""
        del decoding, seed
        for place, chat in enumerate(chats):
            yield place, Answer(self._replies[chat[-1].content], 300, 12)


def data_pipeline() -> dict[str, Any]:
    """Time all stages on one set, cold and when everything is done."""
    spec = set_named(SET)
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            made = run_set(spec, Path(folder))
            seconds.append(time.perf_counter() - began)
    rows = made["raw"].rows
    return {
        "set": SET,
        "rows": rows,
        "cold_s": round(seconds[0], 2),
        "cold_rows_per_s": round(rows / seconds[0]),
        "rerun_s": round(seconds[1], 3),
    }


def own_time(report: dict[str, Any]) -> tuple[dict[str, float], int, int]:
    """Return the pipeline's own seconds by stage, the items, and the answers over all sides."""
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder, stages.time("data"):
        run_set(set_named("disfl-qa"), Path(folder))
        data = load_passage_qa()
        items = tuple(
            Item(i.key, i.prompt(), (i.answer,), question_kind(i.question))
            for i in data.splits["held_out"]
        )
    prompts = [item.prompt for item in items]
    said = {
        "adapter": report["replies"]["mission"][0],
        "base with two examples": report["replies"]["baseline"][0],
        "base": report["others"][0]["replies"]["baseline"][0],
    }
    runs = {
        name: (Run(Recorded(name, dict(zip(prompts, texts, strict=True)))),)
        for name, texts in said.items()
    }
    shots = tuple((shot.prompt(), shot.reply()) for shot in solved_examples(data))
    comparison = Comparison(
        id="bench_pipeline",
        mission=Side("adapter", runs["adapter"], "strict"),
        baselines=(
            Side("base with two examples", runs["base with two examples"], "lenient", shots),
            Side("base", runs["base"], "lenient"),
        ),
        items=items,
        data_name="passage-qa, held_out",
        data_digest=data.digest,
        command="make bench-pipeline",
    )
    with tempfile.TemporaryDirectory() as folder:
        made = evaluate(comparison, cache=Path(folder) / "cache", stages=stages)
        with stages.time("report"):
            write(made, Path(folder) / "report")
    return stages.seconds, len(items), len(items) * len(said)


def straight(worker: LLMEngine, chats: Sequence[Chat], adapter: str | None) -> float:
    """Return the seconds that the worker alone takes for the conversations."""
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


def model_time() -> dict[str, Any]:
    """Time the model on a few items, straight and through the pipeline's execution, in turns."""
    data = load_passage_qa()
    backbone = load_backbone(cache=ROOT / ".cache/models")
    folder = ROOT / "adapters/passage-qa"
    bank = AdapterBank.shaped_for(backbone, folder, slots=1)
    bank.load(folder)
    worker = LLMEngine(backbone, bank, max_sequences=SAMPLE, max_waiting=64, context_tokens=2048)
    worker.start()
    chosen = data.splits["held_out"][:SAMPLE]
    items = [Item(i.key, i.prompt(), (i.answer,)) for i in chosen]
    side = Side("adapter", (Run(WorkerSystem(worker, "passage-qa")),), "strict")
    chats = [side.chat(item) for item in items]
    straight(worker, chats[:2], "passage-qa")
    alone, within, own = [], [], []
    for _ in range(TURNS):
        alone.append(straight(worker, chats, "passage-qa"))
        with tempfile.TemporaryDirectory() as cache:
            began, thread = time.perf_counter(), time.thread_time()
            execute(side, items, Decoding(), AnswerCache(Path(cache) / "answers.jsonl"))
            within.append(time.perf_counter() - began)
            own.append(time.thread_time() - thread)
    worker.close(drain=True)
    pairs = [w / a - 1 for a, w in zip(alone, within, strict=True)]
    return {
        "items": SAMPLE,
        "straight_s": [round(value, 2) for value in alone],
        "through_execution_s": [round(value, 2) for value in within],
        "wall_against_straight": [round(pair, 4) for pair in pairs],
        "own_thread_s_per_item": round(statistics.median(own) / SAMPLE, 5),
        "model_s_per_item": round(min(alone) / SAMPLE, 3),
    }


def main() -> None:
    """Measure and write ``results/bench_pipeline.{json,md}``."""
    recorded = json.loads((OUT / "passage_qa_fleet.json").read_text())
    own_time(recorded)  # imports and fonts are loaded once a process, not once a report
    seconds, items, answers = own_time(recorded)
    model = model_time()
    # What runs beside the engine's thread: tokenising, cache, progress; counted in full, although
    # most of it overlaps with the model's work.
    seconds["beside the model"] = answers * model["own_thread_s_per_item"]
    own = sum(seconds.values())
    whole = answers * model["model_s_per_item"]
    report = {
        "data_pipeline": data_pipeline(),
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
    text = _markdown(report)
    (OUT / "bench_pipeline.md").write_text(text)
    print(text)


def _markdown(report: dict[str, Any]) -> str:
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
