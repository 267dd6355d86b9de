"""Composition study command: ``python -m bem_fleet.studies.composition --out FOLDER``.

It measures, on development items, the interference of each pair of adapters and of each adapter
with the safety adapter, and quality against the radius of the trust region. ``--limit`` bounds the
items; with few of them the intervals are wide, and the report says how many there were.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bem.adapters.artifact import read_adapter_card
from bem.adapters.bank import AdapterBank
from bem.backbone import load_backbone
from bem.safety.overlay import load_overlay
from matplotlib.figure import Figure

from bem_fleet.data.passage_qa import load_passage_qa
from bem_fleet.studies.composition.pair_study import SAFETY, PairStudy

PROG = "python -m bem_fleet.studies.composition"
TAUS = (2.0, 4.0, 8.0, math.inf)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--adapters",
        type=Path,
        nargs="+",
        default=[Path("adapters/passage-qa")],
        help="adapter folders; the items are the first one's task",
    )
    parser.add_argument("--safety", type=Path, default=Path("adapters/safety"))
    parser.add_argument("--taus", type=float, nargs="+", default=list(TAUS))
    parser.add_argument("--limit", type=int, default=None, help="largest number of items")
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--out", type=Path, required=True, help="folder of report and plot")
    return parser


def run(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure all pairs and return the report.

    Args:
        arguments: Parsed command line.
        command: Command line, for the report.
    """
    backbone = load_backbone(cache=arguments.models)
    cards = [read_adapter_card(folder) for folder in arguments.adapters]
    bank = AdapterBank(
        backbone,
        layers=range(min(min(card.layers) for card in cards), len(backbone.layers)),
        rank=max(16, *(card.rank for card in cards)),
        slots=2 * len(cards) + 2,
        feature_layer=cards[0].feature_layer,
    )
    overlay = load_overlay(bank, arguments.safety, base_digest=backbone.digest)
    names = [bank.load(folder).name for folder in arguments.adapters]
    data = load_passage_qa()
    questions = data.splits["dev"][: arguments.limit]
    study = PairStudy(backbone, bank, overlay, questions, progress=print)
    others = [*names[1:], SAFETY]
    return {
        "command": command,
        "data": {"name": "passage-qa, dev", "digest": data.digest, "items": len(questions)},
        "versions": {one.name: one.version for one in bank.adapters()} | {SAFETY: overlay.version},
        "pairs": [study.measure(names[0], other, arguments.taus) for other in others],
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: interference of each pair, then quality by radius."""
    data = report["data"]
    lines = [
        "# Composition",
        "",
        f"{data['items']} items of {data['name']}.",
        "Scores are log-probabilities of the wanted reply, nats per token.",
        "Differences are to the first adapter alone.",
        "",
        "| pair | interference [95 % CI] | without projection | largest cosine |",
        "| --- | --- | --- | --- |",
    ]
    for pair in report["pairs"]:
        plain = _interval(pair["interference_without_projection"])
        lines.append(
            f"| {pair['first']} + {pair['second']} | {_interval(pair['interference'])} | {plain} | "
            f"{pair['overlap']['largest']:.3f} |"
        )
    lines += ["", "| pair | tau | score | difference | codes scaled |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for pair in report["pairs"]:
        for row in pair["tau"]:
            lines.append(
                f"| {pair['first']} + {pair['second']} | {row['tau'] or 'none'} | "
                f"{row['mean_log_probability']:.4f} | {_interval(row['difference'])} | "
                f"{row['scaled_share']:.0%} |"
            )
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Plot quality against the radius of the trust region; no bound is the rightmost point."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for pair in report["pairs"]:
        rows = pair["tau"]
        finite = [row["tau"] for row in rows if row["tau"] is not None]
        end = 2 * max(finite, default=1.0)
        radii = [end if row["tau"] is None else row["tau"] for row in rows]
        scores = [row["mean_log_probability"] for row in rows]
        axes.plot(radii, scores, "o-", label=f"{pair['first']} + {pair['second']}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("radius of the trust region (Frobenius norm)")
    axes.set_ylabel("nats per reply token")
    axes.legend(fontsize=8)
    # Without program version in the metadata, equal plots are equal files.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _interval(difference: Mapping[str, Any]) -> str:
    text = f"{difference['estimate']:+.4f}"
    if difference["ci_low"] is None:
        return text
    return f"{text} [{difference['ci_low']:+.4f}, {difference['ci_high']:+.4f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write ``composition.json``, ``.md`` and ``.png``."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parsed = build_parser().parse_args(given)
    report = run(parsed, f"{PROG} {shlex.join(given)}")
    parsed.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (parsed.out / "composition.json").write_text(text)
    (parsed.out / "composition.md").write_text(markdown(report))
    draw(report, parsed.out / "composition.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
