"""Markdown pages of the safety study: tables of the reports, and the plot of the strength."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bem_fleet.stats.bootstrap import paired_bca
from bem_fleet.studies.safety.ablations import ablations_markdown
from bem_fleet.studies.safety.end_to_end_markdown import fleet_markdown


def write_markdown(folder: Path) -> None:
    """Write the pages and ``safety_strength.png`` from the reports in a folder."""
    if fleet := fleet_markdown(folder):
        (folder / "safety_fleet.md").write_text("\n".join(fleet) + "\n")
    lines = ["# The safety basis", "", "Written by `python -m bem_fleet.studies.safety`."]
    for name, part in (
        ("violations", _violations),
        ("quality", _quality),
        ("strength", _strength),
        ("orthogonality", _orthogonality),
        ("ablations", ablations_markdown),
    ):
        path = folder / f"safety_{name}.json"
        if path.is_file():
            lines += ["", *part(json.loads(path.read_text()))]
            if name == "strength":
                _plot(json.loads(path.read_text()), folder / "safety_strength.png")
    (folder / "safety_basis.md").write_text("\n".join(lines) + "\n")


def _violations(report: dict[str, Any]) -> list[str]:
    entry = report["metrics"]["violation"]
    after, before = np.array(entry["mission"]), np.array(entry["baseline"])
    interval = paired_bca(after.mean(0), before.mean(0))
    lines = [
        "## Violations",
        "",
        (
            f"{len(entry['keys'])} attacks of families that were not trained on, "
            f"{len(report['seeds'])} training seeds, generated greedily, safety strength 1. "
            f"Violations {before.mean():.3f} without the basis, {after.mean():.3f} with it: "
            f"{after.mean() / before.mean() - 1:+.1%}, "
            f"difference {after.mean() - before.mean():+.3f} (95 % BCa interval of the "
            f"seeds' mean, {interval.low:+.3f} to {interval.high:+.3f})."
        ),
        "",
        "| judge (garak) | base | basis, by seed |",
        "| --- | --- | --- |",
    ]
    for name, rates in report["judges"].items():
        lines.append(f"| {name} | {rates['base']:.3f} | {_format_list(rates['basis'])} |")
    for title in ("category", "kind", "family"):
        lines += ["", f"| {title} | attacks | base | basis |", "| --- | --- | --- | --- |"]
        for name, row in report[f"by_{title}"].items():
            lines.append(f"| {name} | {row['items']} | {row['base']:.3f} | {row['basis']:.3f} |")
    return lines


def _quality(report: dict[str, Any]) -> list[str]:
    lines = [
        "## Quality on harmless questions",
        "",
        (
            f"{len(report['metrics']['f1']['keys'])} held-out questions, safety strength 1. "
            "Above the value head's threshold: "
            f"{_format_list(report['harmless_above_threshold'])}; refused: "
            f"{_format_list(report['harmless_refused']['basis'])}, by the base "
            f"{report['harmless_refused']['base']:.3f}."
        ),
        "",
        "| score | base | basis, by seed |",
        "| --- | --- | --- |",
    ]
    for name, entry in report["metrics"].items():
        rows = [float(np.mean(row)) for row in entry["mission"]]
        lines.append(f"| {name} | {np.mean(entry['baseline']):.4f} | {_format_list(rows, 4)} |")
    return lines


def _strength(report: dict[str, Any]) -> list[str]:
    lines = [
        "## Safety strength",
        "",
        (
            f"Spearman of safety strength and share declined over 11 settings, by seed: "
            f"{_format_list(report['spearman'])}. Share of a prompt's steps at which its violation "
            f"does not rise: {np.mean(report['metrics']['strength_effectiveness']['mission']):.4f}."
        ),
        "",
        "| safety strength | violation, by seed | expected violation, by seed |",
        "| --- | --- | --- |",
    ]
    for index, setting in enumerate(report["strengths"]):
        violations = [row[index] for row in report["violation_by_strength"]]
        expected = [row[index] for row in report["expected_violation_by_strength"]]
        lines.append(f"| {setting:.1f} | {_format_list(violations)} | {_format_list(expected)} |")
    return [*lines, "", "![violation by safety strength](safety_strength.png)"]


def _orthogonality(report: dict[str, Any]) -> list[str]:
    lines = [
        "## Orthogonality",
        "",
        (
            "1 minus the largest cosine, least over "
            f"{len(report['metrics']['orthogonality']['keys'])} slices and deltas and "
            f"{len(report['seeds'])} seeds: {report['least']:.7f}."
        ),
        "",
        "| what | least orthogonality |",
        "| --- | --- |",
    ]
    for name, value in report["adapters_before_projection"].items():
        lines.append(f"| {name} as committed, before projection | {value:.7f} |")
    for name, value in report["slices_of_a_free_basis"].items():
        lines.append(f"| {name}, slice drawn without regard to the basis | {value:.4f} |")
    return lines


def _plot(report: dict[str, Any], picture: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for seed, violations in zip(report["seeds"], report["violation_by_strength"], strict=True):
        axes.plot(report["strengths"], violations, marker="o", label=f"seed {seed}")
    axes.set_xlabel("safety strength")
    axes.set_ylabel("share of attacks not declined")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=90, metadata={"Software": None})


def _format_list(values: list[float], digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
