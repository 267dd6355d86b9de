"""Markdown page of the end-to-end safety study."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.acceptance.evidence import read_evidence_keys
from bem_fleet.acceptance.gate_table import evaluate_gates
from bem_fleet.checkout import ROOT
from bem_fleet.studies.safety.exchanges import ARMS

Reports = dict[str, Any]


def fleet_markdown(folder: Path) -> list[str]:
    """Return the lines of the page for the reports in ``folder``; none if a report is missing."""
    paths = {
        part: folder / f"safety_fleet_{part}.json" for part in ("violations", "quality", "benign")
    }
    if not all(path.is_file() for path in paths.values()):
        return []
    reports = {part: json.loads(path.read_text()) for part, path in paths.items()}
    return [
        "# The full fleet with mission C against the fleet without it",
        "",
        _method(reports),
        "",
        "## Gates",
        "",
        *_gates(),
        "",
        "## What each half does",
        "",
        *_arms(reports),
        "",
        "## Right answers by origin",
        "",
        (
            "nq-open and asdiv, which the base model answers in its own words, are reported and "
            "not judged: it is hardly ever right."
        ),
        "",
        *_origins(reports["quality"]),
        "",
        "## Violations by category, kind and family",
        "",
        *_groups(reports["violations"]),
        "## Harmless texts withheld, changed or declined",
        "",
        *_harmless(reports["benign"]),
    ]


def _method(reports: Reports) -> str:
    """Return a paragraph on what was compared, on how many items, and by which judge."""
    violations, quality = reports["violations"], reports["quality"]
    return (
        f"{violations['mission']['name']}, {len(violations['seeds'])} seeds of adapter and heads. "
        f"{len(violations['metrics']['violation']['keys'])} attacks of near-duplicate families "
        "that neither was trained on, greedy replies, judged by garak's detectors "
        "([agreement with people](guard_heads.md)). "
        f"{len(quality['metrics']['f1']['keys'])} questions ({quality['data']['name']}): by "
        "likelihood the model chooses the reply with the highest log-probability per token, and a "
        f"withheld question or reply is wrong. Made by `{violations['command']}`."
    )


def _gates() -> list[str]:
    """Return the gates of C as the validation pipeline judges them, p adjusted over all gates."""
    lines = [
        "| gate | figure | target | 95 % CI | adjusted p | items | seeds | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in evaluate_gates(load_catalogue(), ROOT, read_evidence_keys()):
        line = row.result
        if line.mission != "safety":
            continue
        if line.figure is None:
            lines.append(f"| {line.id} | not measured | {line.target:g} | | | | | |")
            continue
        ends = "none" if line.ci_low is None else f"{line.ci_low:.4f} to {line.ci_high:.4f}"
        verdict = line.status + (f": {'; '.join(row.reasons)}" if row.reasons else "")
        lines.append(
            f"| {line.id} | {line.figure:.4f} | {line.target:g} | {ends} | {line.p_adjusted:.3g} "
            f"| {line.n_items} | {line.seeds} | {verdict} |"
        )
    return lines


def _arms(reports: Reports) -> list[str]:
    violations, quality = reports["violations"], reports["quality"]
    before = np.array(violations["metrics"]["violation"]["baseline"])
    metrics = quality["metrics"]
    lines = [
        "| arm | violations, by seed | change | exact match | F1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    baseline = [np.mean(metrics[name]["baseline"]) for name in ("exact_match", "f1")]
    lines.append(f"| without C | {before.mean():.3f} | | {baseline[0]:.4f} | {baseline[1]:.4f} |")
    for arm in ARMS:
        both = arm == "both"
        rows = violations["metrics"]["violation"]["mission"] if both else violations["arms"][arm]
        scores = {
            name: metrics[name]["mission"] if both else quality["arms"][arm][name]
            for name in ("exact_match", "f1")
        }
        change = np.mean(rows) / before.mean() - 1
        lines.append(
            f"| {arm} | {', '.join(f'{np.mean(row):.3f}' for row in rows)} | {change:+.1%} "
            f"| {np.mean(scores['exact_match']):.4f} | {np.mean(scores['f1']):.4f} |"
        )
    return lines


def _origins(report: Reports) -> list[str]:
    lines = ["| origin | questions | without C | basis | sidecar | both |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, row in report["by_origin"].items():
        arms = " | ".join(f"{row[arm]:.4f}" for arm in ARMS)
        lines.append(f"| {name} | {row['items']} | {row['without']:.4f} | {arms} |")
    return lines


def _groups(reports: Reports) -> list[str]:
    lines = []
    for title in ("category", "kind", "family"):
        lines += [
            f"| {title} | attacks | without C | basis | sidecar | both | change |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, row in reports[f"by_{title}"].items():
            change = f"{row['both'] / row['without'] - 1:+.0%}" if row["without"] else "none"
            arms = " | ".join(f"{row[arm]:.3f}" for arm in ARMS)
            lines.append(f"| {name} | {row['items']} | {row['without']:.3f} | {arms} | {change} |")
        lines.append("")
    return lines


def _harmless(reports: Reports) -> list[str]:
    scores = np.array(reports["metrics"]["withheld"]["mission"])
    indices = defaultdict(list)
    for index, origin in enumerate(reports["origins"]):
        indices[origin].append(index)
    lines = [
        (
            f"{scores.shape[1]} texts; by seed {', '.join(f'{one:.4f}' for one in scores.mean(1))}"
            f", under any seed {scores.max(0).mean():.4f}. Declined by the basis alone where the "
            f"base answers, by seed: {reports['declined_by_the_basis']['suite']} of the suite, "
            f"{reports['declined_by_the_basis']['foreign']} of the foreign requests."
        ),
        "",
        "| origin | texts | mean over seeds |",
        "| --- | --- | --- |",
    ]
    for origin, members in sorted(indices.items()):
        lines.append(f"| {origin} | {len(members)} | {scores[:, members].mean():.4f} |")
    return lines
