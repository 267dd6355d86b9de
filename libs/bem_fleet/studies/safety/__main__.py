"""Safety study command: ``python -m bem_fleet.studies.safety --adapters A B C``, one per seed."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from bem.adapters import read_adapter
from bem.adapters.artifact import ADAPTER_FORMAT
from bem.artifacts import artifact_version
from bem.backbone import Backbone, load_backbone
from bem.safety import read_safety

from bem_fleet.data.held_out import final_evaluation
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.services.router.settings import RouterSettings
from bem_fleet.studies.guard.__main__ import guard_digests, load_guards
from bem_fleet.studies.safety.ablations import ablations
from bem_fleet.studies.safety.basis_markdown import write_markdown
from bem_fleet.studies.safety.basis_study import (
    ADAPTER,
    Report,
    orthogonality_report,
    quality,
    strength,
    violations,
)
from bem_fleet.studies.safety.end_to_end import EndToEndStudy
from bem_fleet.studies.safety.paired_outputs import TrainedAdapter
from bem_fleet.studies.signed_report import write_signed_report

PROG = "python -m bem_fleet.studies.safety"
LEFT_OUT = ("metrics", "arms", "origins", "outputs", "variants")
"""Fields of reports that are too long to be printed."""
PARTS = ("orthogonality", "violations", "quality", "strength", "fleet", "ablations")


def run_part(
    part: str,
    backbone: Backbone,
    trained: list[TrainedAdapter],
    arguments: argparse.Namespace,
    command: str,
    *,
    guards: list[OfflineGuard],
) -> dict[str, Report]:
    """Measure one part of the study and return its reports by name."""
    items = frozenset(json.loads(arguments.items.read_text())) if arguments.items else None
    replies = {"cache": arguments.cache, "folder": arguments.replies, "command": command}
    if part == "violations":
        report = violations(backbone, trained, **replies, items=items)
    elif part == "quality":
        report = quality(backbone, trained, **replies, items=items)
    elif part == "strength":
        cache = arguments.cache
        report = strength(backbone, trained, cache=cache, command=command, items=items)
    elif part == "orthogonality":
        adapter = read_adapter(ADAPTER, base_digest=backbone.digest)
        factors = {adapter.card.name: adapter.factors}
        report = orthogonality_report(trained, factors, command=command, items=items)
    elif part == "ablations":
        folders = [trained[0].folder, *arguments.variants]
        report = ablations(
            backbone, folders, cache=arguments.cache, replies=arguments.replies, command=command
        )
    else:
        return EndToEndStudy(
            backbone=backbone,
            trained=trained,
            guards=guards,
            strength=RouterSettings().safety_strength,
            cache=arguments.cache,
            folder=arguments.replies,
            command=command,
            items=items,
        ).reports()
    return {f"safety_{part}": report}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--adapters", type=Path, nargs="+", required=True, help="safety adapters, one per seed"
    )
    parser.add_argument(
        "--variants", type=Path, nargs="*", default=[], help="variants for the ablations"
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--replies", type=Path, default=Path(".cache/safety/results"))
    parser.add_argument(
        "--items", type=Path, help="JSON list of item keys; measures these alone, to compare"
    )
    return parser


def artifact_digests(trained: list[TrainedAdapter]) -> dict[str, str]:
    """Return the version of every artifact that the study measures, by name."""
    digests = {f"safety, seed {one.artifact.card.seed}": one.artifact.version for one in trained}
    return {**digests, ADAPTER.name: artifact_version(ADAPTER_FORMAT.read_card(ADAPTER))}


def main() -> None:
    """Run the requested parts and write their signed reports and the Markdown pages."""
    arguments = build_parser().parse_args()
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    backbone = load_backbone(cache=arguments.cache / "models")
    trained = [
        TrainedAdapter(folder, read_safety(folder, base_digest=backbone.digest))
        for folder in arguments.adapters
    ]
    # Heads of further seeds are trained here, before anything held out is open.
    guards = load_guards()[: len(trained)] if "fleet" in arguments.parts else []
    with final_evaluation(command) as opening:
        for part in arguments.parts:
            reports = run_part(part, backbone, trained, arguments, command, guards=guards)
            artifacts = artifact_digests(trained) | (guard_digests() if part == "fleet" else {})
            for name, report in reports.items():
                report["held_out"] = dict(opening.counts)
                path = arguments.out / f"{name}.json"
                write_signed_report(report, path, artifacts=artifacts)
                brief = {key: value for key, value in report.items() if key not in LEFT_OUT}
                sys.stdout.write(json.dumps(brief, indent=1) + "\n")
    if not arguments.items:
        write_markdown(arguments.out)


if __name__ == "__main__":
    main()
