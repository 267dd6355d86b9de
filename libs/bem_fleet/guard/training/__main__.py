"""Trains the classifier heads: ``python -m bem_fleet.guard.training --seed 0``.

The thresholds of the served heads go into the safety policy. Heads in another folder keep theirs in
their card, and the encoder is copied there: heads of all seeds read the same embeddings.
"""

import argparse
import shutil
import sys
from pathlib import Path

from bem_fleet.checkout import ROOT
from bem_fleet.guard.policy import DEFAULT_POLICY
from bem_fleet.guard.scoring.heads import ENCODER
from bem_fleet.guard.training.embedding_cache import Caches, multilingual_cache, tuned_cache
from bem_fleet.guard.training.head_training import calibrate_heads, train_heads
from bem_fleet.guard.training.policy_thresholds import write_thresholds

HEADS = ROOT / "adapters/guard"
CACHE = ROOT / ".cache/guard"


def main() -> int:
    """Train the heads, write the artifact and its policy, and print the thresholds."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.guard.training", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the train and dev splits")
    parser.add_argument("--out", type=Path, default=HEADS, help="folder of the artifact")
    parser.add_argument(
        "--calibrate-only",
        action="store_true",
        help="calibrate the heads of the artifact in --out anew and keep them",
    )
    options = parser.parse_args()
    served = options.out.resolve() == HEADS.resolve()
    if not served:
        options.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HEADS / ENCODER, options.out / ENCODER)
    caches = Caches(tuned_cache(CACHE, options.out / ENCODER), multilingual_cache(CACHE))
    make = calibrate_heads if options.calibrate_only else train_heads
    card = make(options.out, caches, options.seed)
    if served:
        write_thresholds(DEFAULT_POLICY, card["thresholds"])
    for name, value in card["thresholds"].items():
        sys.stdout.write(f"{name}: {value}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
