"""Command line: ``python -m bem_fleet.studies.safety --adapters A B C``; one adapter a training seed."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from bem.adapters import read_adapter
from bem.backbone import Backbone, load_backbone
from bem.safety import read_safety

from bem_fleet.guard.training.embedding_cache import EmbeddingCache
from bem_fleet.services.router.settings import RouterSettings
from bem_fleet.studies.guard.__main__ import CACHE as GUARD_CACHE
from bem_fleet.studies.guard.__main__ import load_guards
from bem_fleet.studies.safety.ablations import ablations
from bem_fleet.studies.safety.basis_markdown import write_pages
from bem_fleet.studies.safety.basis_study import (
    ADAPTER,
    Report,
    orthogonality_report,
    quality,
    strength,
    violations,
)
from bem_fleet.studies.safety.end_to_end import Study
from bem_fleet.studies.safety.paired_outputs import Trained

PARTS = ("orthogonality", "violations", "quality", "strength", "fleet", "ablations")


def measured(
    part: str, backbone: Backbone, trained: list[Trained], given: argparse.Namespace, command: str
) -> dict[str, Report]:
    """Return the reports of one part by their names."""
    if part == "violations":
        found = violations(
            backbone, trained, cache=given.cache, folder=given.replies, command=command
        )
    elif part == "quality":
        found = quality(backbone, trained, cache=given.cache, folder=given.replies, command=command)
    elif part == "strength":
        found = strength(backbone, trained, cache=given.cache, command=command)
    elif part == "orthogonality":
        adapter = read_adapter(ADAPTER, base_digest=backbone.digest)
        found = orthogonality_report(trained, {adapter.card.name: adapter.factors}, command=command)
    elif part == "ablations":
        folders = [trained[0].folder, *given.variants]
        found = ablations(
            backbone, folders, cache=given.cache, replies=given.replies, command=command
        )
    else:
        return Study(
            backbone=backbone,
            trained=trained,
            guards=load_guards(EmbeddingCache(GUARD_CACHE / "embeddings.npz"))[: len(trained)],
            strength=RouterSettings().safety_strength,
            cache=given.cache,
            folder=given.replies,
            command=command,
        ).reports()
    return {f"safety_{part}": found}


def main() -> None:
    """Run the parts that are asked for and write their reports and the pages."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.studies.safety", description=__doc__)
    parser.add_argument("--adapters", type=Path, nargs="+", required=True)
    parser.add_argument("--variants", type=Path, nargs="*", default=[], help="to ablate")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--replies", type=Path, default=Path(".cache/safety/results"))
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "bem_fleet.studies.safety", *sys.argv[1:]])
    backbone = load_backbone(cache=given.cache / "models")
    trained = [
        Trained(folder, read_safety(folder, base_digest=backbone.digest))
        for folder in given.adapters
    ]
    for part in given.parts:
        for name, found in measured(part, backbone, trained, given, command).items():
            text = json.dumps(found, indent=None, ensure_ascii=False)
            (given.out / f"{name}.json").write_text(text + "\n")
            left_out = ("metrics", "arms", "origins", "variants")
            brief = {key: value for key, value in found.items() if key not in left_out}
            sys.stdout.write(json.dumps(brief, indent=1) + "\n")
    write_pages(given.out)


if __name__ == "__main__":
    main()
