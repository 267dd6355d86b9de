"""Comparison of two models on people's own items: likelihood and match of the replies, paired."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bem.adapters.bank import AdapterBank
from bem.backbone import load_backbone
from bem.engine import LLMEngine, ScoreRequest, generate, score
from bem.errors import EvaluationError
from bem.prompt_encoding import PromptEncoder
from numpy.typing import NDArray

from bem_fleet.data.instruction_files import Instruction, data_digest
from bem_fleet.evaluation.score_comparison import metric_difference
from bem_fleet.scores.answer_match import exact_match, f1

BASE = "base"
"""Name of the base model without an adapter."""
MIN_ITEMS = 10
METRICS = {
    "logprob_per_token": "mean log-probability of the reply's tokens, nats",
    "exact_match": "whether the greedy reply is the reply, after normalisation",
    "f1": "token F1 of the greedy reply",
}
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ComparedModels:
    """Two models of one base.

    Attributes:
        backbone: Base model, as ``bem.backbone.load_backbone`` names it.
        cache: Folder of prepared models.
        model: Folder of an adapter, or ``base``.
        baseline: Folder of an adapter, or ``base``.
    """

    backbone: str
    cache: Path
    model: str
    baseline: str = BASE


def require_enough(items: Sequence[Instruction], source: str) -> None:
    """Refuse evaluation items that are too few for an interval.

    Args:
        items: Evaluation items.
        source: What they come from, for the message.

    Raises:
        EvaluationError: There are too few.
    """
    if len(items) < MIN_ITEMS:
        raise EvaluationError(
            f"{source}: {len(items)} items; an interval needs at least {MIN_ITEMS}; add some"
        )


def compare_models(
    models: ComparedModels,
    items: Sequence[Instruction],
    *,
    max_tokens: int = 64,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Return both means of each metric and the paired difference with its 95 % interval.

    Args:
        models: The two models.
        items: Evaluation items, at least 10.
        max_tokens: Most tokens of a greedy reply.
        resamples: Bootstrap resamples.

    Raises:
        EvaluationError: There are too few items for an interval.
        BemError: A model cannot be served, or an item does not fit its context.
    """
    require_enough(items, "data")
    scores = [
        _score_model(models, name, items, max_tokens) for name in (models.model, models.baseline)
    ]
    table = {
        name: {
            "meaning": meaning,
            "model": float(scores[0][name].mean()),
            "baseline": float(scores[1][name].mean()),
            **asdict(metric_difference(scores[0][name], scores[1][name], resamples, 0)),
        }
        for name, meaning in METRICS.items()
    }
    return {
        "model": models.model,
        "baseline": models.baseline,
        "n_items": len(items),
        "data": data_digest(items),
        "metrics": table,
        "scores": {
            side: {name: values[0].tolist() for name, values in found.items()}
            for side, found in zip(("model", "baseline"), scores, strict=True)
        },
    }


def render_comparison(report: dict[str, Any]) -> str:
    """Return a comparison as Markdown."""
    items = f"{report['n_items']} items (`{report['data'][:12]}`)"
    lines = [
        f"# {report['model']} against {report['baseline']}",
        "",
        f"{items}; differences are paired by item, with 95 % intervals.",
        "",
        "| metric | model | baseline | difference | 95 % interval | p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["metrics"].items():
        bounds = (row["ci_low"], row["ci_high"])
        interval = "none" if None in bounds else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
        lines.append(
            f"| {name} | {row['model']:.4f} | {row['baseline']:.4f} | {row['estimate']:+.4f} | "
            f"{interval} | {row['p']:.4f} |"
        )
    meanings = [f"- `{name}`: {meaning}." for name, meaning in METRICS.items()]
    return "\n".join([*lines, "", *meanings, ""])


def _score_model(
    models: ComparedModels, name: str, items: Sequence[Instruction], max_tokens: int
) -> Scores:
    """Return the scores of one model by metric, ``[1, items]``, rounded to six digits."""
    backbone = load_backbone(models.backbone, cache=models.cache / "models")
    encoder, end = PromptEncoder(backbone.tokenizer), min(backbone.end_token_ids)
    bank = adapter = None
    if name != BASE:
        bank = AdapterBank.for_artifact(backbone, Path(name), slots=1)
        adapter = bank.load(Path(name)).name
    engine = LLMEngine(backbone, bank, max_sequences=8, max_waiting=len(items) + 1)
    engine.start()
    try:
        prompts = [tuple(encoder.encode_chat(item.chat())) for item in items]
        targets = [(*encoder.encode_text(item.reply), end) for item in items]
        logprobs = score(
            engine,
            [ScoreRequest(*pair, adapter) for pair in zip(prompts, targets, strict=True)],
        )
        replies = generate(engine, prompts, adapter, max_tokens=max_tokens)
    finally:
        engine.close(drain=True)
    pairs = [(one.text, item.reply) for one, item in zip(replies, items, strict=True)]
    rows = {
        "logprob_per_token": [float(np.mean(values)) for values in logprobs],
        "exact_match": [exact_match(*pair) for pair in pairs],
        "f1": [f1(*pair) for pair in pairs],
    }
    return {name: np.round(np.array([values]), 6) for name, values in rows.items()}
