"""Compares an adapter with its base through a fleet: ``python -m bem_fleet.studies.fleet_comparison``."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bem.errors import BemError
from fleet.testing import free_port

from bem_fleet.checkout import ROOT
from bem_fleet.data.passage_qa import load_passage_qa, solved_examples
from bem_fleet.data.readers import question_kind
from bem_fleet.descriptors import default_ports, load_descriptors
from bem_fleet.evaluation.pipeline import Comparison, evaluate, write
from bem_fleet.evaluation.systems import Item, Run, Side
from bem_fleet.studies.grpc_system import RouterModels


def compare(models: RouterModels, *, limit: int | None, command: str) -> Comparison:
    """Return passage-qa against the base model, as both answer through the sidecar.

    Args:
        models: Of a running router.
        limit: Held-out items at most, or None for all.
        command: For the report.
    """
    data = load_passage_qa()
    base, adapter = models.system(), models.system("passage-qa")
    shots = tuple((shot.prompt(), shot.reply()) for shot in solved_examples(data))
    return Comparison(
        id="passage_qa_fleet",
        mission=Side("passage-qa", (Run(adapter),), "strict"),
        baselines=(
            Side("base with two examples", (Run(base),), "lenient", shots),
            Side("base, zero-shot", (Run(base),), "lenient"),
        ),
        items=tuple(
            Item(item.key, item.prompt(), (item.answer,), question_kind(item.question))
            for item in data.splits["held_out"][:limit]
        ),
        data_name="passage-qa, held_out",
        data_digest=data.digest,
        command=command,
        confidence_note=(
            "Both sides answer through the running fleet: gRPC, safety sidecar, router. "
            "The adapter is read strictly (a reply that is not the JSON scores 0), the base "
            "leniently. One training seed: nothing is said of the spread over seeds."
        ),
    )


@contextmanager
def running_fleet() -> Iterator[str]:
    """Bring a fleet up on free ports in its own folder, yield its sidecar's address, stop it."""
    with tempfile.TemporaryDirectory(prefix="bem-evaluate-") as folder:
        ports = default_ports(load_descriptors())
        environment = {**os.environ, **{name: str(free_port()) for name in ports}}
        environment["RUN_DIR"] = folder
        command = [sys.executable, "-m", "bem_fleet.cli.local"]
        try:
            subprocess.run([*command, "up"], cwd=ROOT, env=environment, check=True)
            yield f"127.0.0.1:{environment['ROUTER_PORT']}"
        finally:
            subprocess.run([*command, "down"], cwd=ROOT, env=environment, check=True)


def main() -> int:
    """Parse the arguments, compare and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bem_fleet.studies.fleet_comparison", description=__doc__
    )
    parser.add_argument("--report", type=Path, default=ROOT / "results/passage_qa_fleet")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/evaluation")
    parser.add_argument("--address", help="of a running sidecar; without it a fleet is started")
    parser.add_argument("--limit", type=int, help="items at most")
    arguments = parser.parse_args()
    try:
        if arguments.address:
            return _run(arguments, arguments.address)
        with running_fleet() as address:
            return _run(arguments, address)
    except BemError as err:
        print(err, file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, address: str) -> int:
    with RouterModels(address) as models:
        wanted = compare(models, limit=arguments.limit, command="make evaluate")
        report = evaluate(wanted, cache=arguments.cache / wanted.id)
    for path in write(report, arguments.report):
        print(path)
    for name, metric in report["metrics"].items():
        print(f"{name}: {metric['estimate']:+.3f} ({metric['ci_low']} to {metric['ci_high']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
