"""Command line of the data: ``python -m bem_fleet.data``.

Commands are ``build --set X``, ``cards``, ``splits``, ``leaks`` and ``book-leaks``.
"""

import argparse
import sys
from pathlib import Path

from bem.errors import BemError, DataFormatError

from bem_fleet.checkout import ROOT
from bem_fleet.data import leak_audit
from bem_fleet.data.books import FOLDER, audit_books
from bem_fleet.data.cards import write_cards
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.displaced import DISPLACED_FILE
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


def write_splits(_: argparse.Namespace) -> None:
    """Cluster the items of all sets and write the list of those that later splits leave out."""
    DISPLACED_FILE.write_text(leak_audit.displaced_document(), encoding="utf-8")
    sys.stdout.write(f"{DISPLACED_FILE.name}: run `{leak_audit.COMMAND} leaks` next\n")


def audit_leaks(arguments: argparse.Namespace) -> None:
    """Compare every pair of splits and write or check the table.

    Raises:
        DataFormatError: Two splits share a text, or the table is stale.
    """
    rows = leak_audit.audit_all()
    page = leak_audit.audit_page(rows)
    if arguments.check:
        if not arguments.out.exists() or arguments.out.read_text(encoding="utf-8") != page:
            raise DataFormatError(
                f"{arguments.out.name}: the table is stale; run `{leak_audit.COMMAND} leaks`"
            )
    else:
        arguments.out.write_text(page, encoding="utf-8")
    if leaks := leak_audit.find_leaks(rows):
        raise DataFormatError("\n".join(leaks))
    sys.stdout.write(f"{arguments.out.name}: no leak in {len(rows)} parts\n")


def audit_book_leaks(arguments: argparse.Namespace) -> None:
    """Compare the books of every pair of splits and write the table.

    Raises:
        DataFormatError: Two splits share a text.
    """
    rows = audit_books(arguments.folder)
    arguments.out.write_text(
        leak_audit.audit_page(rows).replace(" leaks`", " book-leaks`"), encoding="utf-8"
    )
    if leaks := leak_audit.find_leaks(rows):
        raise DataFormatError("\n".join(leaks))
    sys.stdout.write(f"{arguments.out.name}: no leak in {len(rows)} parts\n")


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
    command = commands.add_parser("splits", help="write the list of displaced items")
    command.set_defaults(run=write_splits)
    command = commands.add_parser("leaks", help="audit every pair of splits, write the table")
    command.add_argument("--out", type=Path, default=ROOT / "docs/leak_audit.md")
    command.add_argument("--check", action="store_true", help="compare with the table instead")
    command.set_defaults(run=audit_leaks)
    command = commands.add_parser("book-leaks", help="audit the books of `make books`")
    command.add_argument("--out", type=Path, default=ROOT / "docs/leak_audit_books.md")
    command.add_argument("--folder", type=Path, default=FOLDER, help="folder of the archives")
    command.set_defaults(run=audit_book_leaks)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except BemError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
