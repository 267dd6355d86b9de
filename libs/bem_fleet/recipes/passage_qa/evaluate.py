"""Evaluation of an adapter against its base: exact match, F1 and format, with paired intervals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import ModelWorker

from bem_fleet.data.passage_qa import Item
from bem_fleet.evaluation.execution import AnswerCache, execute
from bem_fleet.evaluation.in_process import WorkerSystem
from bem_fleet.evaluation.systems import Decoding, Run, Side
from bem_fleet.evaluation.systems import Item as EvaluationItem
from bem_fleet.scores.answers import exact_match, f1
from bem_fleet.scores.formats import lenient_answer, strict_answer
from bem_fleet.stats.bootstrap import paired_bca

SYSTEMS = {
    "base, strict": "the base model; a reply that is not the requested JSON scores 0",
    "base, lenient": "the same replies; the answer is extracted from any text",
    "base with two examples, lenient": "two solved training items precede the question",
    "adapter, strict": "the adapter; a reply that is not the requested JSON scores 0",
}
MAX_TOKENS = 48


def evaluate(
    backbone: Backbone, folder: Path, items: Sequence[Item], shots: Sequence[Item]
) -> dict[str, Any]:
    """Answer every item greedily with base and adapter, and compare the scores by item.

    Args:
        backbone: Base model without sites.
        folder: Folder of the adapter's artifact.
        items: Held-out items.
        shots: Solved items of the training split for the few-shot baseline.

    Returns:
        Figures of each system, paired differences with 95 % BCa intervals, and scores by item.
    """
    bank = AdapterBank.for_artifact(backbone, folder, slots=1)
    adapter = bank.load(folder).name
    worker = ModelWorker(backbone, bank, rows=8, queue=4096, context_tokens=2048)
    worker.start()
    base = WorkerSystem(worker)
    base_replies = _replies(base, items, (), "base")
    replies = {
        "base, strict": (base_replies, strict_answer),
        "base, lenient": (base_replies, lenient_answer),
        "base with two examples, lenient": (
            _replies(base, items, shots, "base with two examples"),
            lenient_answer,
        ),
        "adapter, strict": (
            _replies(WorkerSystem(worker, adapter), items, (), "adapter"),
            strict_answer,
        ),
    }
    worker.close(drain=True)
    scored = {name: _score(items, texts, read) for name, (texts, read) in replies.items()}
    return {
        "systems": SYSTEMS,
        "figures": {name: _figures(rows) for name, rows in scored.items()},
        "differences": {
            f"{measure}: adapter over {other}": _difference(scored, other, measure)
            for other in list(scored)[:-1]
            for measure in ("exact_match", "f1")
        },
        "items": [item.key for item in items],
        "scores": scored,
    }


def _replies(
    system: WorkerSystem, items: Sequence[Item], shots: Sequence[Item], title: str
) -> list[str]:
    solved = tuple((shot.prompt(), shot.reply()) for shot in shots)
    side = Side(title, (Run(system),), "lenient", solved)
    requests = [EvaluationItem(item.key, item.prompt(), (item.answer,)) for item in items]
    decoding = Decoding(max_tokens=MAX_TOKENS)
    (answers,) = execute(side, requests, decoding, AnswerCache())
    return [one.answer.text for one in answers]


def _score(
    items: Sequence[Item], texts: Sequence[str], read: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    rows = []
    for item, text in zip(items, texts, strict=True):
        answer = read(text)
        rows.append(
            {
                "reply": text,
                "valid": float(strict_answer(text) is not None),
                "exact_match": exact_match(answer, item.answer) if answer is not None else 0.0,
                "f1": f1(answer, item.answer) if answer is not None else 0.0,
            }
        )
    return rows


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        measure: round(float(np.mean([row[measure] for row in rows])), 4)
        for measure in ("exact_match", "f1", "valid")
    }


def _difference(
    scored: dict[str, list[dict[str, Any]]], other: str, measure: str
) -> dict[str, float | int]:
    """Return the mean paired difference and its BCa interval (Efron 1987), 10,000 resamples."""
    adapter = np.array([row[measure] for row in scored["adapter, strict"]])
    base = np.array([row[measure] for row in scored[other]])
    interval = paired_bca(adapter, base)
    return {
        "difference": round(float(np.mean(adapter - base)), 4),
        "ci_low": round(interval.low, 4),
        "ci_high": round(interval.high, 4),
        "n_items": len(adapter),
    }
