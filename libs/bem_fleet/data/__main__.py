"""Command line of the data pipeline: ``python -m bem_fleet.data {build --set boolq, cards}``."""

import argparse
import sys
from pathlib import Path

from bem.errors import BemError

from bem_fleet.data.cards import write_cards
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.pipeline import run_dataset


def build_dataset(arguments: argparse.Namespace) -> None:
    """Run the pipeline on one dataset and print a summary of each stage."""
    for artifact in run_dataset(DATASETS[arguments.set], arguments.cache).values():
        sys.stdout.write(
            f"{artifact.stage}: {artifact.rows} rows from {artifact.read} inputs, dropped "
            f"{artifact.dropped or 'none'}, {artifact.resumed} resumed: {artifact.path}\n"
        )


def write_data_cards(arguments: argparse.Namespace) -> None:
    """Run the pipeline on every dataset and write the data cards."""
    cards = write_cards(arguments.out, arguments.cache)
    sys.stdout.write(f"{arguments.out}: {len(cards)} cards\n")


def main() -> int:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.data", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/data"))
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="run the pipeline on one dataset")
    command.add_argument("--set", choices=sorted(DATASETS), required=True)
    command.set_defaults(run=build_dataset)
    command = commands.add_parser("cards", help="write the data cards of all datasets")
    command.add_argument("--out", type=Path, default=Path("results/data_cards"))
    command.set_defaults(run=write_data_cards)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except BemError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
