"""Command line: exit status 0 means yes, 1 means no, 2 means that it cannot be said."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bem.acceptance.catalogue import GATES
from bem.errors import GateFormatError

from tools.fleetctl import gates

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="fleetctl", description="Asks the fleet and judges it.")
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser(
        "gates",
        help="judge the acceptance gates from the evaluation reports",
        description="Judges every gate from the per-item scores in its report, writes "
        "docs/results/gates.json, and prints the gates of one phase or of all. Exit status 0 only "
        "if all printed gates pass; not measured is never a pass.",
    )
    asked.add_argument("--phase", type=int, choices=range(1, 5), help="1 to 4; all when left out")
    asked.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail (status 2) if gates.json is not what the scores give",
    )
    asked.add_argument("--root", type=Path, default=ROOT, help="folder that holds docs/results")
    asked.add_argument("--gates", type=Path, default=GATES, help="another file of gates")
    given = parser.parse_args(arguments)
    try:
        return gates.run(
            given.gates, given.root, given.phase, as_json=given.json, check=given.check
        )
    except GateFormatError as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return 2
