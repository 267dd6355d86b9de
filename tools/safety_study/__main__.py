"""Command line: ``python -m tools.safety_study --adapters A B C``; one adapter a training seed."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bem.adapters import read_skill
from bem.backbone import load_backbone
from bem.safety import read_safety
from bem.training.safety.study import (
    Trained,
    knob,
    orthogonality_report,
    quality,
    violations,
)

from tools.safety_study.page import write_page

PARTS = ("orthogonality", "violations", "knob", "quality")


def main() -> None:
    """Run the parts that are asked for and write their reports and the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.safety_study", description=__doc__)
    parser.add_argument("--adapters", type=Path, nargs="+", required=True)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--replies", type=Path, default=Path(".cache/safety/results"))
    arguments = parser.parse_args()
    command = shlex.join(["python", "-m", "tools.safety_study", *sys.argv[1:]])
    backbone = load_backbone(cache=arguments.cache / "models")
    trained = [
        Trained(folder, read_safety(folder, base_digest=backbone.digest))
        for folder in arguments.adapters
    ]
    for part in arguments.parts:
        found: dict[str, Any]
        if part == "violations":
            found = violations(
                trained, cache=arguments.cache, folder=arguments.replies, command=command
            )
        elif part == "quality":
            found = quality(
                backbone,
                trained,
                cache=arguments.cache,
                folder=arguments.replies,
                command=command,
            )
        elif part == "knob":
            found = knob(backbone, trained, cache=arguments.cache, command=command)
        else:
            skill = read_skill(Path("adapters/passage-qa"), base_digest=backbone.digest)
            found = orthogonality_report(trained, {skill.card.name: skill.factors}, command=command)
        path = arguments.out / f"safety_{part}.json"
        path.write_text(json.dumps(found, indent=None, ensure_ascii=False) + "\n")
        brief = {key: value for key, value in found.items() if key != "metrics"}
        sys.stdout.write(json.dumps(brief, indent=1) + "\n")
    write_page(arguments.out)


if __name__ == "__main__":
    main()
