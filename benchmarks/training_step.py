"""Training benchmark: a training step beside peft's, ``python -m benchmarks.training_step``.

Both have the same sites (``o_proj``, ``down_proj``), rank 8, items, order, initial factors and
optimiser; codes are one. They take turns in one process, so both profit from its allocator setting.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bem.backbone import load_backbone
from bem.training.activation_cache import EncodedExample, TokenPair, encode_sequences, tokenise
from bem.training.strategy import Strategy, measure_matmul_s, retain_freed_memory
from bem.training.trainer import AdapterTrainer, TrainingConfig, warmup_cosine
from bem_fleet.data.passage_qa import load_passage_qa
from peft import LoraConfig, get_peft_model

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
CACHE = ROOT / ".cache/models"
RANK, SCALE, LAYERS = 8, 2.0, 30


def peft_step(
    config: TrainingConfig, trainer: AdapterTrainer, dtype: str, total: int
) -> Callable[[Sequence[TokenPair]], float]:
    """Return peft's training step over padded sequences, started from the trainer's factors."""
    config = LoraConfig(
        r=RANK,
        lora_alpha=int(RANK * SCALE),
        target_modules=["o_proj", "down_proj"],
        layers_to_transform=list(config.layers),
    )
    model = get_peft_model(load_backbone(dtype=dtype, cache=CACHE).model, config)
    with torch.no_grad():
        for path, (a, _) in trainer.factors.items():
            model.base_model.model.get_submodule(path).lora_A["default"].weight.copy_(a)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    done = 0

    def step(batch: Sequence[TokenPair]) -> float:
        nonlocal done
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(done, total)
        width = max(len(prompt) + len(reply) for prompt, reply in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (prompt, reply) in enumerate(batch):
            end = len(prompt) + len(reply)
            ids[row, :end] = torch.tensor(prompt + reply)
            labels[row, len(prompt) : end] = torch.tensor(reply)
            mask[row, :end] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1
        return float(loss.detach())

    return step


def compare(
    sequences: Sequence[TokenPair], layers: tuple[int, ...], dtype: str, batch: int, steps: int
) -> dict[str, Any]:
    """Alternate both steps over the same batches; the first step of each is warm-up."""
    config = TrainingConfig(
        layers=layers, rank=RANK, scale=SCALE, feature_layer=-1, control=False, batch=batch
    )
    backbone = load_backbone(dtype=dtype, cache=CACHE)
    began = time.perf_counter()
    examples: list[EncodedExample] = encode_sequences(
        backbone, sequences, first_layer=min(layers), feature_layer=-1
    )
    cached_s = time.perf_counter() - began
    seconds: dict[str, list[float]] = {"peft": [], "bem": []}
    losses: dict[str, list[float]] = {"peft": [], "bem": []}
    tokens = []
    with tempfile.TemporaryDirectory() as folder:
        strategy = Strategy(compute_dtype="float32" if dtype == "float32" else "bfloat16")
        trainer = AdapterTrainer(backbone, config, Path(folder), strategy=strategy)
        peft_train_step = peft_step(config, trainer, dtype, steps)
        for step in range(steps):
            indices = [(step * batch + i) % len(sequences) for i in range(batch)]
            tokens.append(sum(len(p) + len(r) for p, r in (sequences[i] for i in indices)))
            began = time.perf_counter()
            losses["peft"].append(peft_train_step([sequences[i] for i in indices]))
            middle = time.perf_counter()
            losses["bem"].append(trainer.train_step([examples[i] for i in indices], steps))
            seconds["peft"].append(middle - began)
            seconds["bem"].append(time.perf_counter() - middle)
    return figures(seconds, losses, tokens, len(layers), cached_s)


def figures(
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    tokens: list[int],
    layers: int,
    cached_s: float,
) -> dict[str, Any]:
    """Return medians over the paired rounds, and both loss curves."""
    rounds = range(1, len(tokens))
    ratios = [seconds["peft"][i] / seconds["bem"][i] for i in rounds]
    gaps = [abs(a - b) for a, b in zip(losses["peft"], losses["bem"], strict=True)]
    return {
        "layers_with_sites": layers,
        "rounds": len(ratios),
        "tokens_per_s": {
            name: round(statistics.median(tokens[i] / taken[i] for i in rounds), 1)
            for name, taken in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        "lower_layers_once_s": round(cached_s, 2),
        "largest_loss_gap": round(max(gaps), 4),
        "mean_loss_gap": round(statistics.mean(gaps), 4),
        "curves": {name: [round(x, 4) for x in curve] for name, curve in losses.items()},
    }


def matmul_bound(layers: int) -> dict[str, float]:
    """Return the tokens/s of a step that consists of its matrix products alone."""
    shape = (3072, 576)
    products = layers * (960 + 576 + 3 * 1536) * 576
    bound = {}
    for name in ("float32", "bfloat16"):
        rate = (
            1024
            * shape[0]
            * shape[1]
            / measure_matmul_s(getattr(torch, name), shape, torch.device("cpu"))
        )
        bound[name] = round(rate / (2 * products), 1)
    return bound


def main() -> None:
    """Measure each case and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    retain_freed_memory()
    backbone = load_backbone(cache=CACHE)
    pairs = [tokenise(backbone, item) for item in load_passage_qa(0).splits["train"]]
    sequences = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= 512]
    cases: dict[str, Any] = {}
    # Neighbours in the data file share a passage, so the lengths in a batch are similar.
    for name, first in (("all layers", 0), ("upper half, lower cached", LAYERS // 2)):
        for dtype in arguments.dtypes:
            cases[f"{name}, {dtype}"] = compare(
                sequences[: arguments.batch * (arguments.rounds + 1)],
                tuple(range(first, LAYERS)),
                dtype,
                arguments.batch,
                arguments.rounds + 1,
            )
    report = {
        "command": "python -m benchmarks.training_step",
        "cases": cases,
        "ratios": {name: case["ratio"] for name, case in cases.items()},
        "matmul_bound_tokens_per_s": matmul_bound(LAYERS),
        "note": "code of ones, rank 8, o_proj and down_proj; steps exclude building the cache",
    }
    write(report)


def write(report: dict[str, Any]) -> None:
    """Write the report as JSON and Markdown."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_training.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = ["# A training step beside peft's", ""]
    lines += ["| case | peft tokens/s | BEM tokens/s | ratio (min to max) | loss gap, largest |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, case in report["cases"].items():
        rate, (low, high) = case["tokens_per_s"], case["ratio_min_max"]
        lines.append(
            f"| {name} | {rate['peft']} | {rate['bem']} | {case['ratio']} ({low} to {high}) "
            f"| {case['largest_loss_gap']} |"
        )
        assert math.isfinite(case["ratio"])
    bound = report["matmul_bound_tokens_per_s"]
    lines += ["", f"All layers, matrix products alone: {bound} tokens/s.", "", report["note"]]
    (OUT / "bench_training.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
