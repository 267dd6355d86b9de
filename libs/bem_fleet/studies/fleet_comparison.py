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
from bem_fleet.cli.local.plan import Plan
from bem_fleet.data.datasets import question_word
from bem_fleet.data.passage_qa import few_shot_examples, load_passage_qa
from bem_fleet.evaluation.pipeline import Comparison, evaluate, write_report
from bem_fleet.evaluation.systems import ComparisonSide, EvaluationItem, SystemRun
from bem_fleet.studies.grpc_system import RouterModels


def adapter_comparison(models: RouterModels, *, limit: int | None, command: str) -> Comparison:
    """Return passage-qa against the base model, as both answer through the sidecar.

    Args:
        models: Of a running router.
        limit: Held-out items at most, or None for all.
        command: For the report.
    """
    data = load_passage_qa()
    base, adapter = models.system(), models.system("passage-qa")
    shots = tuple((shot.prompt(), shot.reply()) for shot in few_shot_examples(data))
    return Comparison(
        id="passage_qa_fleet",
        mission=ComparisonSide("passage-qa", (SystemRun(adapter),), "strict"),
        baselines=(
            ComparisonSide("base with two examples", (SystemRun(base),), "lenient", shots),
            ComparisonSide("base, zero-shot", (SystemRun(base),), "lenient"),
        ),
        items=tuple(
            EvaluationItem(item.key, item.prompt(), (item.answer,), question_word(item.question))
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
        environment = {**os.environ, **{name: str(free_port()) for name in Plan().ports}}
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
            return _write_comparison(arguments, arguments.address)
        with running_fleet() as address:
            return _write_comparison(arguments, address)
    except BemError as err:
        print(err, file=sys.stderr)
        return 1


def _write_comparison(arguments: argparse.Namespace, address: str) -> int:
    with RouterModels(address) as models:
        wanted = adapter_comparison(models, limit=arguments.limit, command="make evaluate")
        report = evaluate(wanted, cache=arguments.cache / wanted.id)
    for path in write_report(report, arguments.report):
        print(path)
    for name, metric in report["metrics"].items():
        print(f"{name}: {metric['estimate']:+.3f} ({metric['ci_low']} to {metric['ci_high']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
