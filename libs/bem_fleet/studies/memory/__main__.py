"""Study of mission memory: ``python -m bem_fleet.studies.memory evaluate``.

For each length, task and system it reads a haystack with the planted items once and prints the
share of items whose needed sentences are all in the evidence. No text is generated: this is the
recall that bounds every reader.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bem.backbone import PACKAGED_MODEL, load_backbone
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
from bem_fleet.data.memory_tasks import TASKS, MemoryItem, haystack, memory_items, plant
from bem_fleet.studies.memory.systems import (
    Bm25System,
    EvidenceSystem,
    MemorySystem,
    WindowSystem,
)

TOKEN_CHARS = 4
"""Characters of a token of English, by which lengths in tokens become characters."""

_MIB = 2**20
_WIDE_WINDOW = 47 * _MIB


def systems_of(encoder: MemoryEncoder, budget: int) -> list[EvidenceSystem]:
    """Return the memory, its ablations and the baselines at a budget.

    Args:
        encoder: Encoder of the base model.
        budget: Bytes of a session.
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
    made += [
        Bm25System("bm25_same_bytes", budget),
        Bm25System("bm25_unlimited"),
        Bm25System("bm25_unlimited_two_hops", hops=2),
        WindowSystem("window_same_bytes", encoder, budget),
        WindowSystem("window_47_mib", encoder, _WIDE_WINDOW),
    ]
    return made


def evaluate(
    systems: Sequence[EvidenceSystem],
    *,
    split: str,
    lengths: Sequence[int],
    seeds: Sequence[int],
    count: int,
) -> Iterator[dict[str, Any]]:
    """Yield a cell for each length, seed, task and system.

    Args:
        systems: Systems to compare.
        split: ``train`` or ``held_out``.
        lengths: Lengths of the haystack, in tokens.
        seeds: Seeds of items, haystacks and places.
        count: Items of each task.
    """
    for length in lengths:
        for seed in seeds:
            items = {
                task: memory_items(task, split=split, seed=seed, count=count) for task in TASKS
            }
            planted = [one for found in items.values() for one in found]
            text = plant(haystack(split, length * TOKEN_CHARS, seed), planted, seed)
            for system in systems:
                system.read(text)
                for task, found in items.items():
                    scores = [recalled(system, item) for item in found]
                    yield {
                        "tokens": length,
                        "seed": seed,
                        "task": task,
                        "system": system.name,
                        "recall": sum(scores) / len(scores),
                        "scores": scores,
                    }


def recalled(system: EvidenceSystem, item: MemoryItem) -> int:
    """Return 1 if all sentences that an item needs are in the evidence, else 0."""
    evidence = " ".join(" ".join(system.evidence(item.question)).split())
    return int(all(answer in evidence for answer in item.answers))


def load_encoder(backbone: str, modules: Path, cache: Path) -> MemoryEncoder:
    """Return the encoder of a base model, with untrained modules if the folder has no card.

    Args:
        backbone: Base model, or ``tiny``.
        modules: Folder of the memory modules.
        cache: Folder of de-quantised models.
    """
    model = tiny_backbone() if backbone == "tiny" else load_backbone(backbone, cache=cache)
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
    parser.add_argument("command", choices=["evaluate"])
    parser.add_argument("--split", choices=["train", HELD_OUT], default="train")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32_768, 131_072])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--budget", type=int, default=_MIB)
    parser.add_argument("--backbone", default=PACKAGED_MODEL)
    parser.add_argument("--modules", type=Path, default=Path("adapters/memory"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--report", type=Path, default=None)
    options = parser.parse_args(arguments)
    systems = systems_of(
        load_encoder(options.backbone, options.modules, options.cache), options.budget
    )
    command = f"python -m bem_fleet.studies.memory {' '.join(arguments or sys.argv[1:])}"
    held_out = options.split == HELD_OUT
    cells = []
    with final_evaluation(command) if held_out else nullcontext():
        for cell in evaluate(
            systems,
            split=options.split,
            lengths=options.lengths,
            seeds=options.seeds,
            count=options.items,
        ):
            cells.append(cell)
            print(
                f"{cell['tokens']:>8} {cell['seed']} {cell['task']:<18} {cell['system']:<24} "
                f"{cell['recall']:.3f}",
                flush=True,
            )
    if options.report is not None:
        report = {"command": command, "budget_bytes": options.budget, "cells": cells}
        write_atomic(options.report, (json.dumps(report, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
