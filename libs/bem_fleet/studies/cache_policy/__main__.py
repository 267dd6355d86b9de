"""Study of cache policies: ``python -m bem_fleet.studies.cache_policy``.

Answers the development questions about passages with the whole cache and under each policy at each
share of the bytes, and prints exact match, F1, bytes, and the difference to the whole cache with a
95 % interval over passages. Policies that see the question (H2O, SnapKV, the learned one) read it
in the prompt that they compress, as they do when they are served.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bem.adapters.artifact import CARD_FILE as ADAPTER_CARD
from bem.adapters.bank import AdapterBank
from bem.backbone import PACKAGED_MODEL, Backbone
from bem.cache_policy import EVICTION_POLICIES, EvictionPolicy, LearnedPolicy
from bem.cache_policy.artifact import CARD_FILE, load_scorer
from bem.engine import LLMEngine
from bem.files import write_atomic

from bem_fleet.data.passage_qa import PassageQuestion, load_passage_qa
from bem_fleet.recipes.cache_policy.base_model import (
    CONTEXT_TOKENS,
    TINY,
    WEIGHTS,
    open_base_model,
)
from bem_fleet.studies.cache_policy.policy_outcomes import answer_all, compare_with_full

SHARES = (0.25, 0.5)
ANSWER_TOKENS = 48


def policies_of(backbone: Backbone, folder: Path) -> list[EvictionPolicy]:
    """Return all policies; the learned one if the folder has its card."""
    made = [make() for make in EVICTION_POLICIES.values()]
    if (folder / CARD_FILE).is_file():
        scorer, _ = load_scorer(folder, base_digest=backbone.digest)
        made.append(LearnedPolicy(scorer))
    return made


def run_study(
    engine: LLMEngine,
    questions: Sequence[PassageQuestion],
    policies: Sequence[EvictionPolicy],
    shares: Sequence[float],
    *,
    adapter: str | None,
    answer_tokens: int = ANSWER_TOKENS,
) -> list[dict[str, Any]]:
    """Return a row for the whole cache and for each policy at each share; print each.

    Args:
        engine: Started engine that nobody else uses.
        questions: Questions with passages.
        policies: Policies to compare.
        shares: Shares of the bytes.
        adapter: Name of a loaded adapter; None for the base model.
        answer_tokens: Most tokens of an answer.
    """
    settings: list[tuple[EvictionPolicy | None, float]] = [(None, 1.0)]
    settings += [(policy, share) for share in shares for policy in policies]
    outcomes = []
    rows = []
    for policy, share in settings:
        outcomes.append(
            answer_all(engine, questions, policy, share, adapter=adapter, max_tokens=answer_tokens)
        )
        rows.append(compare_with_full(outcomes[-1], outcomes[0], questions))
        sys.stdout.write(_line(rows[-1]) + "\n")
        sys.stdout.flush()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog="bem_fleet.studies.cache_policy", description=__doc__)
    parser.add_argument("--limit", type=int, default=None, help="questions; all by default")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--backbone", default=PACKAGED_MODEL, help="base model, or tiny")
    parser.add_argument("--weights", choices=WEIGHTS, default="int4")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--adapter", type=Path, default=Path("adapters/passage-qa"))
    parser.add_argument("--policy", type=Path, default=Path("adapters/cache-policy"))
    parser.add_argument("--answer-tokens", type=int, default=ANSWER_TOKENS)
    parser.add_argument("--report", type=Path, default=None)
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    backbone = open_base_model(options.backbone, options.weights, options.cache)
    has_adapter = (options.adapter / ADAPTER_CARD).is_file() and options.backbone != TINY
    bank = AdapterBank.for_artifact(backbone, options.adapter, slots=1) if has_adapter else None
    name = bank.load(options.adapter).name if bank else None
    questions = load_passage_qa().splits["dev"][: options.limit]
    engine = LLMEngine(
        backbone, bank, max_sequences=8, max_waiting=4096, context_tokens=CONTEXT_TOKENS
    )
    engine.start()
    try:
        policies = policies_of(backbone, options.policy)
        rows = run_study(
            engine,
            questions,
            policies,
            options.shares,
            adapter=name,
            answer_tokens=options.answer_tokens,
        )
    finally:
        engine.close(drain=True)
    if options.report is not None:
        command = f"python -m bem_fleet.studies.cache_policy {' '.join(words)}"
        report = {"command": command, "split": "dev", "rows": [_finite(row) for row in rows]}
        write_atomic(options.report, (json.dumps(report, indent=1) + "\n").encode())
    return 0


def _line(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    figures = "  ".join(
        f"{measure} {row[measure]:.3f} ({row[f'{measure}_difference']:+.3f}, "
        f"{row[f'{measure}_low']:+.3f} to {row[f'{measure}_high']:+.3f})"
        for measure in ("exact_match", "f1")
    )
    return f"{row['system']:<14} {row['share']:.2f}  {row['bytes_share']:.3f} of bytes  {figures}"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which bounds that do not exist are null: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


if __name__ == "__main__":
    sys.exit(main())
