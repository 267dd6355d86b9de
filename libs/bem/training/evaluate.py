"""A skill against its base on held-out items: exact match, F1, format, with paired intervals."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from tqdm import tqdm

from bem.adapters.bank import SkillBank
from bem.backbone import Backbone
from bem.engine import GenerationRequest, ModelWorker, Piece, Sampling
from bem.training.data import Item
from bem.training.scores import exact_match, f1, lenient_answer, strict_answer

SYSTEMS = {
    "base, strict": "the base model; a reply that is not the wanted JSON scores 0",
    "base, lenient": "the same replies; whatever text may be meant is scored",
    "base with two examples, lenient": "two solved training items in the conversation before",
    "skill, strict": "the skill; a reply that is not the wanted JSON scores 0",
}
MAX_TOKENS = 48


def evaluate(
    backbone: Backbone, folder: Path, items: Sequence[Item], shots: Sequence[Item]
) -> dict[str, Any]:
    """Answer every item greedily with base and skill and compare them item by item.

    Args:
        backbone: The base model, without sites.
        folder: The skill's artifact.
        items: Held-out items.
        shots: Solved items for the few-shot baseline; from the training split.

    Returns:
        Figures a system, paired differences with 95 % BCa intervals, and all scores an item.
    """
    card = json.loads((folder / "card.json").read_text())
    bank = SkillBank(
        backbone,
        layers=card["layers"],
        rank=card["rank"],
        slots=1,
        feature_layer=card["feature_layer"],
    )
    skill = bank.load(folder).name
    worker = ModelWorker(backbone, bank, rows=8, queue=4096, context_tokens=2048)
    worker.start()
    plain = _answers(worker, items, (), None, "base")
    replies = {
        "base, strict": (plain, strict_answer),
        "base, lenient": (plain, lenient_answer),
        "base with two examples, lenient": (
            _answers(worker, items, shots, None, "base with two examples"),
            lenient_answer,
        ),
        "skill, strict": (_answers(worker, items, (), skill, "skill"), strict_answer),
    }
    worker.close(drain=True)
    scored = {name: _score(items, texts, read) for name, (texts, read) in replies.items()}
    return {
        "systems": SYSTEMS,
        "figures": {name: _figures(rows) for name, rows in scored.items()},
        "differences": {
            f"{measure}: skill over {other}": _difference(scored, other, measure)
            for other in list(scored)[:-1]
            for measure in ("exact_match", "f1")
        },
        "items": [item.key for item in items],
        "scores": scored,
    }


def _answers(
    worker: ModelWorker,
    items: Sequence[Item],
    shots: Sequence[Item],
    skill: str | None,
    title: str,
) -> list[str]:
    done: SimpleQueue[tuple[int, Piece | Exception]] = SimpleQueue()
    for index, item in enumerate(items):
        request = GenerationRequest(
            prompt_ids=_prompt(worker.backbone, item, shots),
            sampling=Sampling(temperature=0),
            max_tokens=MAX_TOKENS,
            skill=skill,
        )
        worker.submit(request, partial(_note, done, index))
    texts = [""] * len(items)
    with tqdm(total=len(items), desc=title, unit="item") as bar:
        while bar.n < len(items):
            index, piece = done.get()
            if isinstance(piece, Exception):
                raise piece
            texts[index] += piece.text
            bar.update(piece.finish is not None)
    return texts


def _note(
    done: "SimpleQueue[tuple[int, Piece | Exception]]", index: int, piece: Piece | Exception
) -> None:
    done.put((index, piece))


def _prompt(backbone: Backbone, item: Item, shots: Sequence[Item]) -> tuple[int, ...]:
    chat = []
    for shot in shots:
        chat += [{"role": "user", "content": shot.prompt()}]
        chat += [{"role": "assistant", "content": shot.reply()}]
    chat += [{"role": "user", "content": item.prompt()}]
    text = backbone.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tuple(backbone.tokenizer.encode(text, add_special_tokens=False))


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
    skill = np.array([row[measure] for row in scored["skill, strict"]])
    base = np.array([row[measure] for row in scored[other]])
    found = bootstrap(
        (skill - base,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(0)
    )
    low, high = found.confidence_interval
    return {
        "difference": round(float(np.mean(skill - base)), 4),
        "ci_low": round(float(low), 4),
        "ci_high": round(float(high), 4),
        "n_items": len(skill),
    }
