"""Trains the guard's encoder: ``python -m bem_fleet.recipes.guard --seed 0``.

The heads are trained on its embeddings afterwards, by ``python -m bem_fleet.guard.training``.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from bem_fleet.checkout import ROOT
from bem_fleet.guard.scoring.heads import ENCODER
from bem_fleet.guard.training.embedding_cache import tuned_cache
from bem_fleet.guard.training.examples import load_examples
from bem_fleet.recipes.guard.encoder import EpochReport, train_encoder

_REPORTED_FALSE_POSITIVES = 0.01


def print_report(report: EpochReport) -> None:
    """Print the loss, and ROC-AUC and detection at 1 % false positives of each side."""
    parts = [f"epoch {report.epoch}: loss {report.loss:.4f}"]
    for name, (scores, harmful) in report.dev.items():
        threshold = np.quantile(scores[~harmful], 1 - _REPORTED_FALSE_POSITIVES)
        detected = (scores[harmful] > threshold).mean()
        parts.append(f"{name} auc {roc_auc_score(harmful, scores):.4f} detected {detected:.3f}")
    sys.stdout.write("; ".join(parts) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Train the encoder and write its adapter."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.recipes.guard", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of splits and training")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the examples")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--out", type=Path, default=ROOT / "adapters/guard", help="folder")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/guard", help="embeddings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, dev = (load_examples(split, options.seed) for split in ("train", "dev"))
    sys.stdout.write(f"{len(train)} training and {len(dev)} dev examples\n")
    encoder, embeddings = train_encoder(
        train, dev, epochs=options.epochs, seed=options.seed, report=print_report
    )
    options.out.mkdir(parents=True, exist_ok=True)
    metadata = {"command": f"python -m bem_fleet.recipes.guard --seed {options.seed}"}
    save_file(encoder.adapter(), options.out / ENCODER, metadata=metadata)
    # The heads are trained on the same examples: embedding them again would take as long.
    cache = tuned_cache(options.cache, options.out / ENCODER)
    cache.store([one.text for one in train], embeddings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
