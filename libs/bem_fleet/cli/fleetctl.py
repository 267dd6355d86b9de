"""Command line: exit status 0 means yes, 1 means no, 2 means that it cannot be said."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bem.errors import GateFormatError
from fleet.errors import InvalidArgumentError, UnavailableError
from fleet.wire import AUDIT_STREAM

from bem_fleet.acceptance.catalogue import CENTRAL_GATES
from bem_fleet.checkout import ROOT
from bem_fleet.cli import audit, canary, gates
from bem_fleet.cli.kubectl_bem import STEERING


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="fleetctl", description="Asks the fleet and judges it.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_gates(commands)
    _add_audit(commands)
    _add_canary(commands)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (GateFormatError, InvalidArgumentError, UnavailableError) as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return 2


def _add_gates(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    asked = commands.add_parser(
        "gates",
        help="judge the acceptance gates from the evaluation reports",
        description="Judges every gate from the per-item scores in its report, writes "
        "results/gates.json, and prints the gates of one phase or of all. Exit status 0 only "
        "if all printed gates pass; not measured is never a pass.",
    )
    asked.add_argument("--phase", type=int, choices=range(1, 5), help="1 to 4; all when left out")
    asked.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail (status 2) if gates.json is not what the scores give",
    )
    asked.add_argument("--root", type=Path, default=ROOT, help="folder that holds results")
    asked.add_argument("--gates", type=Path, default=CENTRAL_GATES, help="another file of gates")
    asked.set_defaults(
        run=lambda given: gates.run(
            given.gates, given.root, given.phase, as_json=given.json, check=given.check
        )
    )


def _add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = commands.add_parser("audit", help="check the sidecars' audit log")
    asked = about.add_subparsers(dest="what", required=True).add_parser(
        "verify",
        help="find records that were edited, dropped or moved",
        description="Checks the hash chain of the audit log from its first record to its head. "
        "Exit status 0 if it is whole, 1 if not, 2 if it cannot be read.",
    )
    asked.add_argument("--redis-url", default="redis://127.0.0.1:6379/0")
    asked.add_argument("--stream", default=AUDIT_STREAM)
    asked.add_argument("--key-file", type=Path, help="the sidecars' BEM_SAFETY_AUDIT_KEY_FILE")
    asked.add_argument(
        "--start", default="", help="head before the first record, if older ones went"
    )
    asked.set_defaults(
        run=lambda given: audit.verify(
            given.redis_url, given.stream, audit.key_from(given.key_file), given.start
        )
    )


def _add_canary(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = commands.add_parser(
        "canary",
        help="start and steer canaries through the orchestrator",
        description="On one machine another adapter, in a cluster an image too. Exit status 0 if "
        "it is asked for, 1 if it is refused, 2 if the orchestrator cannot be asked.",
    )
    about.add_argument("--address", default="127.0.0.1:50101", help="the orchestrator's")
    about.add_argument("--namespace", default="", help="empty: the orchestrator's own")
    verbs = about.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="try an adapter or an image")
    start.add_argument("mission")
    start.add_argument("--model", default="", help="another adapter of the same process")
    start.add_argument("--image", default="", help="image of a second Deployment")
    start.add_argument("--step", action="append", default=[], help="weight:seconds; repeat")
    start.add_argument("--shadow", type=int, help="percent of requests mirrored")
    start.add_argument("--attempt", type=int, help="raise it to try the same again")
    start.add_argument("--spec", type=Path, help="YAML as spec.canary: analysis, probes and all")
    start.set_defaults(run=_start_canary)
    for verb in STEERING:
        one = verbs.add_parser(verb)
        one.add_argument("mission")
        one.set_defaults(
            run=lambda given: canary.steer(
                given.address, given.namespace, given.mission, given.verb
            )
        )
    status = verbs.add_parser("status")
    status.add_argument("mission")
    status.set_defaults(
        run=lambda given: canary.show(given.address, given.namespace, given.mission)
    )


def _start_canary(given: argparse.Namespace) -> int:
    wanted = canary.specification(
        given.spec,
        model=given.model,
        image=given.image,
        steps=given.step,
        shadow=given.shadow,
        attempt=given.attempt,
    )
    return canary.start(given.address, given.namespace, given.mission, wanted)
