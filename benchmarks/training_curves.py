"""Training benchmark: loss curves beside peft's, ``python -m benchmarks.training_curves``.

Both train the same items in the same order, with sites in the upper half and rank 8. Seeds differ
in the initial factors only. Two curves of one seed differ by the arithmetic of the implementations;
two seeds of one implementation differ by the randomness of training, which is the noise to compare
with.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bem.backbone import load_backbone
from bem.training.activation_cache import TokenPair, encode_sequences, tokenise
from bem.training.strategy import ComputeDtype, Strategy, retain_freed_memory
from bem.training.trainer import AdapterTrainer, TrainingConfig
from bem_fleet.data.passage_qa import load_passage_qa
from tqdm import tqdm

from benchmarks.training_step import CACHE, LAYERS, OUT, RANK, SCALE, peft_step

COMPUTE_DTYPES: dict[str, ComputeDtype] = {"float32": "float32", "bfloat16": "bfloat16"}
BATCH = 2


def curves(sequences: Sequence[TokenPair], dtype: str, seed: int, steps: int) -> dict[str, Any]:
    """Return both loss curves of one seed, ``steps`` long."""
    first = LAYERS // 2
    config = TrainingConfig(
        layers=tuple(range(first, LAYERS)),
        rank=RANK,
        scale=SCALE,
        feature_layer=-1,
        control=False,
        batch=BATCH,
        seed=seed,
    )
    backbone = load_backbone(dtype=dtype, cache=CACHE)
    # The lower layers use the compute dtype of the comparison, as they do in peft.
    examples = encode_sequences(
        backbone,
        sequences,
        first_layer=first,
        feature_layer=-1,
        compute_dtype=COMPUTE_DTYPES[dtype],
    )
    losses: dict[str, list[float]] = {"peft": [], "bem": []}
    with tempfile.TemporaryDirectory() as folder:
        strategy = Strategy(compute_dtype=COMPUTE_DTYPES[dtype])
        trainer = AdapterTrainer(backbone, config, Path(folder), strategy=strategy)
        peft_train_step = peft_step(config, trainer, dtype, steps)
        for step in tqdm(range(steps), desc=f"{dtype}, seed {seed}", unit="step"):
            indices = [(step * BATCH + i) % len(sequences) for i in range(BATCH)]
            losses["peft"].append(peft_train_step([sequences[i] for i in indices]))
            losses["bem"].append(trainer.train_step([examples[i] for i in indices], steps))
    return {name: [round(loss, 4) for loss in curve] for name, curve in losses.items()}


def gap(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the mean absolute difference of two curves."""
    return statistics.mean(abs(a - b) for a, b in zip(left, right, strict=True))


def summarise(by_seed: dict[int, dict[str, list[float]]]) -> dict[str, float]:
    """Return the gaps between implementations and between seeds, and the last quarters' losses.

    Args:
        by_seed: ``{seed: {implementation: losses}}``.
    """
    pairs = list(combinations(by_seed, 2))
    last = {
        name: statistics.mean(
            loss for curve in by_seed.values() for loss in curve[name][-len(curve[name]) // 4 :]
        )
        for name in ("peft", "bem")
    }
    implementations = [gap(curve["peft"], curve["bem"]) for curve in by_seed.values()]
    seeds = {
        name: statistics.mean(gap(by_seed[i][name], by_seed[j][name]) for i, j in pairs)
        for name in ("peft", "bem")
    }
    return {
        "gap_of_implementations": round(statistics.mean(implementations), 4),
        "gap_of_seeds_peft": round(seeds["peft"], 4),
        "gap_of_seeds_bem": round(seeds["bem"], 4),
        "last_quarter_peft": round(last["peft"], 4),
        "last_quarter_bem": round(last["bem"], 4),
    }


def main() -> None:
    """Train and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--dtypes", nargs="+", default=list(COMPUTE_DTYPES), choices=list(COMPUTE_DTYPES)
    )
    arguments = parser.parse_args()
    retain_freed_memory()
    backbone = load_backbone(cache=CACHE)
    tokenised = [tokenise(backbone, item) for item in load_passage_qa(0).splits["train"]]
    short = sorted(tokenised, key=lambda pair: len(pair[0]) + len(pair[1]))
    sequences = short[: BATCH * arguments.steps]
    all_curves = {
        dtype: {
            seed: curves(sequences, dtype, seed, arguments.steps) for seed in range(arguments.seeds)
        }
        for dtype in arguments.dtypes
    }
    report: dict[str, Any] = {
        "command": "python -m benchmarks.training_curves",
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "batch": BATCH,
        "compared": {dtype: summarise(by_seed) for dtype, by_seed in all_curves.items()},
        "curves": all_curves,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_training_curves.json").write_text(json.dumps(report, indent=1) + "\n")
    (OUT / "bench_training_curves.md").write_text(markdown(report))
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    columns = list(next(iter(report["compared"].values())))
    lines = [
        "# Loss curves beside peft's",
        "",
        (
            f"{report['steps']} steps of {report['batch']} items, {report['seeds']} seeds of the "
            f"initial factors, the same items in the same order. `{report['command']}`"
        ),
        "",
        (
            "A gap is the mean absolute difference of two curves: of both implementations with one "
            "seed, and of two seeds of one implementation, which is the noise."
        ),
        "",
        "| compute dtype | " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    lines += [
        f"| {dtype} | " + " | ".join(f"{row[column]:.4f}" for column in columns) + " |"
        for dtype, row in report["compared"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
