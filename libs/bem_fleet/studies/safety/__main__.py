"""Safety study command: ``python -m bem_fleet.studies.safety --adapters A B C``, one per seed."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from bem.adapters import read_adapter
from bem.backbone import Backbone, load_backbone
from bem.safety import read_safety

from bem_fleet.data.held_out import final_evaluation
from bem_fleet.services.router.settings import RouterSettings
from bem_fleet.studies.guard.__main__ import load_guards
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

PROG = "python -m bem_fleet.studies.safety"
PARTS = ("orthogonality", "violations", "quality", "strength", "fleet", "ablations")


def run_part(
    part: str,
    backbone: Backbone,
    trained: list[TrainedAdapter],
    arguments: argparse.Namespace,
    command: str,
) -> dict[str, Report]:
    """Measure one part of the study and return its reports by name."""
    if part == "violations":
        report = violations(
            backbone, trained, cache=arguments.cache, folder=arguments.replies, command=command
        )
    elif part == "quality":
        report = quality(
            backbone, trained, cache=arguments.cache, folder=arguments.replies, command=command
        )
    elif part == "strength":
        report = strength(backbone, trained, cache=arguments.cache, command=command)
    elif part == "orthogonality":
        adapter = read_adapter(ADAPTER, base_digest=backbone.digest)
        report = orthogonality_report(
            trained, {adapter.card.name: adapter.factors}, command=command
        )
    elif part == "ablations":
        folders = [trained[0].folder, *arguments.variants]
        report = ablations(
            backbone, folders, cache=arguments.cache, replies=arguments.replies, command=command
        )
    else:
        return EndToEndStudy(
            backbone=backbone,
            trained=trained,
            guards=load_guards()[: len(trained)],
            strength=RouterSettings().safety_strength,
            cache=arguments.cache,
            folder=arguments.replies,
            command=command,
        ).reports()
    return {f"safety_{part}": report}


def main() -> None:
    """Run the requested parts and write their reports and the Markdown pages."""
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
    arguments = parser.parse_args()
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    backbone = load_backbone(cache=arguments.cache / "models")
    trained = [
        TrainedAdapter(folder, read_safety(folder, base_digest=backbone.digest))
        for folder in arguments.adapters
    ]
    for part in arguments.parts:
        with final_evaluation(command) as opening:
            reports = run_part(part, backbone, trained, arguments, command)
        for name, report in reports.items():
            report["held_out"] = opening.counts
            text = json.dumps(report, indent=None, ensure_ascii=False)
            (arguments.out / f"{name}.json").write_text(text + "\n")
            left_out = ("metrics", "arms", "origins", "variants")
            brief = {key: value for key, value in report.items() if key not in left_out}
            sys.stdout.write(json.dumps(brief, indent=1) + "\n")
    write_markdown(arguments.out)


if __name__ == "__main__":
    main()
