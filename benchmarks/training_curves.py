"""Long loss curves of a BEM step beside peft's: ``python -m benchmarks.training_curves``.

The same items in the same order, sites in the upper half, rank 8; what differs between seeds is
the start of the factors. Two curves of one seed may differ by arithmetic only, two seeds of one
implementation by all that training leaves to chance: that is the noise.
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
    """Return both loss curves of one seed, as long as ``steps``."""
    first = LAYERS // 2
    plan = TrainingConfig(
        layers=tuple(range(first, LAYERS)),
        rank=RANK,
        scale=SCALE,
        feature_layer=-1,
        control=False,
        batch=BATCH,
        seed=seed,
    )
    backbone = load_backbone(dtype=dtype, cache=CACHE)
    # The lower layers in the compute dtype of the comparison, or peft's would be another input.
    examples = encode_sequences(
        backbone,
        sequences,
        first_layer=first,
        feature_layer=-1,
        compute_dtype=COMPUTE_DTYPES[dtype],
    )
    found: dict[str, list[float]] = {"peft": [], "bem": []}
    with tempfile.TemporaryDirectory() as folder:
        strategy = Strategy(compute_dtype=COMPUTE_DTYPES[dtype])
        trainer = AdapterTrainer(backbone, plan, Path(folder), strategy=strategy)
        other = peft_step(plan, trainer, dtype, steps)
        for step in tqdm(range(steps), desc=f"{dtype}, seed {seed}", unit="step"):
            picked = [(step * BATCH + i) % len(sequences) for i in range(BATCH)]
            found["peft"].append(other([sequences[i] for i in picked]))
            found["bem"].append(trainer.train_step([examples[i] for i in picked], steps))
    return {name: [round(loss, 4) for loss in of] for name, of in found.items()}


def gap(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the mean absolute difference of two curves."""
    return statistics.mean(abs(a - b) for a, b in zip(left, right, strict=True))


def compared(found: dict[int, dict[str, list[float]]]) -> dict[str, float]:
    """Return the gap between implementations beside the gap between seeds, and the last quarters.

    Args:
        found: Curves by seed and implementation.
    """
    pairs = list(combinations(found, 2))
    last = {
        name: statistics.mean(
            loss for of in found.values() for loss in of[name][-len(of[name]) // 4 :]
        )
        for name in ("peft", "bem")
    }
    own = [gap(of["peft"], of["bem"]) for of in found.values()]
    seeds = {
        name: statistics.mean(gap(found[i][name], found[j][name]) for i, j in pairs)
        for name in ("peft", "bem")
    }
    return {
        "gap_of_implementations": round(statistics.mean(own), 4),
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
        "compared": {dtype: compared(found) for dtype, found in all_curves.items()},
        "curves": all_curves,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_training_curves.json").write_text(json.dumps(report, indent=1) + "\n")
    (OUT / "bench_training_curves.md").write_text(markdown(report))
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    columns = list(next(iter(report["compared"].values())))
    lines = [
        "# Loss curves beside peft's",
        "",
        (
            f"{report['steps']} steps of {report['batch']} items, {report['seeds']} seeds of the "
            f"start, the same items in the same order. `{report['command']}`"
        ),
        "",
        (
            "A gap is the mean absolute difference of two curves: of the implementations at one "
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
