"""Study of mission memory: ``python -m bem_fleet.studies.memory evaluate``.

For each length, task and system it reads a haystack with the planted items once and prints the
share of items whose needed sentences are all in the evidence. No text is generated: this is the
recall that bounds every reader. ``calibrate`` prints calibration error and AUC of coverage
and confidence instead; tokens 0 are all sessions together.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.files import write_atomic
from bem.memory import (
    EmbeddingStates,
    Eviction,
    Gate,
    MemoryEncoder,
    MemoryModules,
    SessionConfig,
    SlotTokenizer,
)
from bem.memory.artifact import CARD_FILE, load_modules
from bem.testing import tiny_backbone

from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.data.memory_tasks import MemoryItem
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.studies.memory.asked_text import asked_text
from bem_fleet.studies.memory.cache_systems import cache_systems
from bem_fleet.studies.memory.coverage_calibration import (
    all_outcomes,
    calibrations,
    session_outcomes,
)
from bem_fleet.studies.memory.sentence_rankers import (
    Bm25Ranker,
    Embed,
    FusedRanker,
    MiniLmRanker,
    SentenceRanker,
)
from bem_fleet.studies.memory.systems import (
    EvidenceSystem,
    MemorySystem,
    RetrievalSystem,
    TruncationSystem,
    WindowSystem,
)

_MIB = 2**20
_WIDE_WINDOW = 47 * _MIB


def systems_of(encoder: MemoryEncoder, budget: int, embed: Embed) -> list[EvidenceSystem]:
    """Return the memory, its ablations and the baselines at a budget.

    Args:
        encoder: Encoder of the base model.
        budget: Bytes of a session.
        embed: Sentence embeddings of the baselines.
    """
    base = SessionConfig(budget_bytes=budget)
    configs = {
        "memory": base,
        "memory_fifo": replace(base, eviction=Eviction.FIFO),
        "memory_lru": replace(base, eviction=Eviction.LRU),
        "memory_reservoir": replace(base, eviction=Eviction.RESERVOIR),
        "memory_gate_novelty": replace(base, gate=Gate.NOVELTY),
        "memory_gate_random": replace(base, gate=Gate.RANDOM),
        "memory_gate_none": replace(base, gate=Gate.NONE),
        "memory_no_state": replace(base, state=False),
    }
    made: list[EvidenceSystem] = [
        MemorySystem(name, encoder, config) for name, config in configs.items()
    ]
    made.append(MemorySystem("memory_one_hop", encoder, base, hops=1))
    return made + baselines(encoder, budget, embed)


def baselines(encoder: MemoryEncoder, budget: int, embed: Embed) -> list[EvidenceSystem]:
    """Return retrieval in one hop and two, truncation and KV windows.

    Args:
        encoder: Encoder of the base model.
        budget: Bytes of a session.
        embed: Sentence embeddings.
    """
    words, meanings = Bm25Ranker(), MiniLmRanker(embed)
    rankers: dict[str, SentenceRanker] = {
        "bm25": words,
        "minilm": meanings,
        "fused": FusedRanker([words, meanings]),
    }
    made: list[EvidenceSystem] = [
        RetrievalSystem(f"{name}_{size}{suffix}", ranker, kept, hops)
        for name, ranker in rankers.items()
        for size, kept in (("same_bytes", budget), ("unlimited", None))
        for hops, suffix in ((1, ""), (2, "_two_hops"))
    ]
    for size, kept in (("same_bytes", budget), ("47_mib", _WIDE_WINDOW)):
        made.append(TruncationSystem(f"truncation_{size}", encoder, kept))
        made.append(WindowSystem(f"window_{size}", encoder, kept))
    return made


def evaluate(
    systems: Sequence[EvidenceSystem],
    tokenizer: SlotTokenizer,
    *,
    split: str,
    lengths: Sequence[int],
    seeds: Sequence[int],
    count: int,
    books: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield a cell for each length, seed, task and system.

    Args:
        systems: Systems to compare.
        tokenizer: Tokenizer of slots, by which natural answers are cut into pieces.
        split: ``train`` or ``held_out``.
        lengths: Lengths of the haystack, in tokens.
        seeds: Seeds of items, haystacks and places.
        count: Items of each task.
        books: Whether haystacks are of books.
    """
    for length in lengths:
        for seed in seeds:
            asked = asked_text(tokenizer, split, length, seed, count, books=books)
            for system in systems:
                system.read(asked.text)
                where = {"tokens": length, "seed": seed, "system": system.name}
                where |= {"cluster": asked.cluster}
                for task, found in asked.items.items():
                    scores = [recalled(system, item) for item in found]
                    if not scores:  # a short haystack may have no natural item
                        continue
                    recall = sum(scores) / len(scores)
                    yield {**where, "task": task, "recall": recall, "scores": scores}


def calibrate(
    encoder: MemoryEncoder,
    budget: int,
    *,
    split: str,
    lengths: Sequence[int],
    seeds: Sequence[int],
    count: int,
    books: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the calibration of each session and, last, of all together.

    Args:
        encoder: Encoder with the modules to judge.
        budget: Bytes of a session.
        split: ``train`` or ``held_out``.
        lengths: Lengths of the haystack, in tokens.
        seeds: Seeds of items, haystacks and places.
        count: Items of each task.
        books: Whether haystacks are of books.
    """
    outcomes = []
    for length in lengths:
        for seed in seeds:
            asked = asked_text(encoder.tokenizer, split, length, seed, count, books=books)
            outcomes.append(session_outcomes(encoder, asked, budget))
            where = {"tokens": length, "seed": seed, "cluster": asked.cluster}
            yield {**where, **calibrations(encoder, outcomes[-1])}
    yield {"tokens": 0, "seed": -1, **calibrations(encoder, all_outcomes(outcomes))}


def recalled(system: EvidenceSystem, item: MemoryItem) -> int:
    """Return 1 if all sentences that an item needs are in the evidence, else 0."""
    evidence = " ".join(" ".join(system.evidence(item.question)).split())
    return int(all(answer in evidence for answer in item.answers))


def open_encoder(model: Backbone, modules: Path) -> MemoryEncoder:
    """Return the encoder of a base model, with untrained modules if the folder has no card.

    Args:
        model: Base model.
        modules: Folder of the memory modules.
    """
    states = EmbeddingStates(model)
    if (modules / CARD_FILE).is_file():
        learned, _ = load_modules(modules, base_digest=model.digest)
    else:
        learned = MemoryModules(states.width).requires_grad_(requires_grad=False)
    return MemoryEncoder(SlotTokenizer(model.tokenizer), states, learned)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog="bem_fleet.studies.memory", description=__doc__)
    parser.add_argument("command", choices=["evaluate", "calibrate"])
    parser.add_argument("--split", choices=["train", HELD_OUT], default="train")
    parser.add_argument("--haystack", choices=["passages", "books"], default="passages")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32_768, 131_072])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--budget", type=int, default=_MIB)
    parser.add_argument(
        "--kv-tokens",
        type=int,
        default=8192,
        help="longest haystack that H2O, KeyDiff and SnapKV read, which takes a forward pass",
    )
    parser.add_argument("--backbone", default=PACKAGED_MODEL)
    parser.add_argument("--modules", type=Path, default=Path("adapters/memory"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--report", type=Path, default=None)
    options = parser.parse_args(arguments)
    tiny = options.backbone == "tiny"
    model = tiny_backbone() if tiny else load_backbone(options.backbone, cache=options.cache)
    command = f"python -m bem_fleet.studies.memory {' '.join(arguments or sys.argv[1:])}"
    held_out = options.split == HELD_OUT
    cells = []
    with final_evaluation(command) if held_out else nullcontext():
        for cell in _cells(model, options):
            cells.append(cell)
            print(_line(cell), flush=True)
    if options.report is not None:
        report = {"command": command, "budget_bytes": options.budget, "cells": cells}
        write_atomic(options.report, (json.dumps(report, indent=1) + "\n").encode())
    return 0


def _cells(model: Backbone, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    encoder = open_encoder(model, options.modules)
    what: dict[str, Any] = {
        "split": options.split,
        "seeds": options.seeds,
        "count": options.items,
        "books": options.haystack == "books",
    }
    if options.command == "calibrate":
        yield from calibrate(encoder, options.budget, lengths=options.lengths, **what)
        return
    systems = systems_of(encoder, options.budget, MiniLM().embed)
    budgets = {"same_bytes": options.budget, "47_mib": _WIDE_WINDOW}
    cached = cache_systems(model, budgets) if min(options.lengths) <= options.kv_tokens else []
    for length in options.lengths:
        both = [*systems, *(cached if length <= options.kv_tokens else ())]
        yield from evaluate(both, encoder.tokenizer, lengths=[length], **what)


def _line(cell: dict[str, Any]) -> str:
    """Return a cell as a line of text."""
    where = f"{cell['tokens']:>8} {cell['seed']:>2}"
    if "recall" in cell:
        return f"{where} {cell['task']:<18} {cell['system']:<28} {cell['recall']:.3f}"
    return f"{where} {json.dumps({name: cell[name] for name in ('coverage', 'confidence')})}"


if __name__ == "__main__":
    sys.exit(main())
