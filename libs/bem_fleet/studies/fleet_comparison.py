"""Comparison of an adapter with its base model through a running fleet.

``python -m bem_fleet.studies.fleet_comparison --address HOST:PORT`` sends the held-out items of
passage-qa to a router's sidecar (``make up`` starts a fleet) and writes the report.
"""

import argparse
import sys
from pathlib import Path

from bem.errors import BemError

from bem_fleet.checkout import ROOT
from bem_fleet.data.held_out import final_evaluation
from bem_fleet.data.passage_qa import few_shot_examples, load_passage_qa
from bem_fleet.evaluation.passage_items import held_out_items
from bem_fleet.evaluation.pipeline import Comparison, evaluate, write_report
from bem_fleet.evaluation.systems import ComparisonSide, SystemRun
from bem_fleet.studies.grpc_system import RouterModels

ADDRESS = "127.0.0.1:50051"
"""Default address: the router's sidecar of a local fleet."""


def adapter_comparison(models: RouterModels, *, limit: int | None, command: str) -> Comparison:
    """Return the comparison of passage-qa with the base model, both through the sidecar.

    Args:
        models: Models of a running router.
        limit: Largest number of held-out items; None for all.
        command: Command for the report.

    Raises:
        EvaluationError: The router does not respond, or has not loaded passage-qa.
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
        items=held_out_items(data, limit),
        data_name="passage-qa, held_out",
        data_digest=data.digest,
        command=command,
        unit="passage",
        confidence_note=(
            "Both sides respond through the running fleet: gRPC, safety sidecar, router. The "
            "adapter is scored strictly (a reply that is not the JSON scores 0), the base "
            "leniently. With one training seed, the intervals do not include the spread over seeds."
        ),
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bem_fleet.studies.fleet_comparison", description=__doc__
    )
    parser.add_argument("--address", default=ADDRESS, help=f"router's sidecar (default {ADDRESS})")
    parser.add_argument("--report", type=Path, default=ROOT / "results/passage_qa_fleet")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/evaluation")
    parser.add_argument("--limit", type=int, help="largest number of items")
    return parser


def main() -> int:
    """Parse the arguments, run the comparison and write the report."""
    arguments = build_parser().parse_args()
    try:
        return _write_comparison(arguments)
    except BemError as err:
        print(err, file=sys.stderr)
        return 1


def _write_comparison(arguments: argparse.Namespace) -> int:
    with RouterModels(arguments.address) as models:
        with final_evaluation("make evaluate") as opening:
            comparison = adapter_comparison(models, limit=arguments.limit, command="make evaluate")
        report = evaluate(comparison, cache=arguments.cache / comparison.id)
        report["held_out"] = opening.counts
    for path in write_report(report, arguments.report):
        print(path)
    for name, metric in report["metrics"].items():
        print(f"{name}: {metric['estimate']:+.3f} ({metric['ci_low']} to {metric['ci_high']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
