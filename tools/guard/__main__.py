"""``python -m tools.guard train|report|judge``."""

import argparse
import sys
from pathlib import Path

from tools.guard.corpus import Embeddings
from tools.guard.train import train

ROOT = Path(__file__).resolve().parents[2]
SCORER = ROOT / "services/safety/scorer"
CACHE = ROOT / ".cache/guard"


def main() -> int:
    """Parse the arguments and run one command."""
    parser = argparse.ArgumentParser(prog="python -m tools.guard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("train", help="train the heads and choose their thresholds")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=SCORER)
    given = parser.parse_args()
    card = train(given.out, Embeddings(CACHE / "embeddings.npz"), given.seed)
    for name, value in card["thresholds"].items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
