"""Re-run of a sample: some items of a signed report are measured again and compared.

The study's own command runs again, with the arguments that the report names, on items drawn at
random, without any cached reply. Scores must be equal. Texts must be equal too, but for a small
share: on another processor a greedy reply can turn at a tie.
"""

import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem_fleet.checkout import ROOT

Report = dict[str, Any]
SAFETY = "bem_fleet.studies.safety"
COMPATIBILITY = "bem_fleet.studies.compatibility"
RERUNS: Mapping[str, tuple[str, str]] = {
    "safety_violations": (SAFETY, "violations"),
    "safety_quality": (SAFETY, "quality"),
    "safety_strength": (SAFETY, "strength"),
    "safety_orthogonality": (SAFETY, "orthogonality"),
    "safety_fleet_violations": (SAFETY, "fleet"),
    "safety_fleet_quality": (SAFETY, "fleet"),
    "safety_fleet_benign": (SAFETY, "fleet"),
    "fleet_pairwise": (COMPATIBILITY, "pairwise"),
    "fleet_all_five": (COMPATIBILITY, "all_five"),
}
"""Module and part that measure a study again, by study id; timings cannot be repeated."""

SCORE_TOLERANCE = 1e-4
"""Largest difference of two measurements of one score; floating-point sums differ by less."""

TOLERATED_SHARE = 0.05
"""Share of sampled texts that may differ while their scores are equal."""


@dataclass(frozen=True)
class RerunResult:
    """Outcome of the re-run of one report.

    Attributes:
        study: Study id.
        items: Number of items that were measured again.
        problem: What differs, or why it could not be measured again; empty if all agrees.
        is_repeatable: Whether the study can be measured item by item; a timing cannot.
    """

    study: str
    items: int
    problem: str = ""
    is_repeatable: bool = True


def rerun_sample(
    reports: Sequence[Report], items: int, seed: int, *, root: Path = ROOT
) -> list[RerunResult]:
    """Measure a sample of each report again, reports of one command together.

    Args:
        reports: Verified reports.
        items: Number of items of each report.
        seed: Seed of the draw; whoever made a report must not know it.
        root: Checkout whose code measures.
    """
    draw = random.Random(seed)  # noqa: S311 - a draw to be repeated, not a secret
    results, groups = [], defaultdict(list)
    for report in sorted(reports, key=lambda one: str(one["id"])):
        study = str(report["id"])
        arguments = _arguments(report)
        if arguments is None:
            problem = f"its command, {report['command']!r}, is not the study's"
            if study not in RERUNS:
                problem = "it cannot be measured item by item"
            results.append(RerunResult(study, 0, problem, study in RERUNS))
            continue
        keys = next(iter(report["metrics"].values()))["keys"]
        chosen = draw.sample(keys, min(items, len(keys)))
        groups[tuple(arguments)].append((report, chosen))
    for command, members in groups.items():
        results += _run_group(command, members, root)
    return results


def compare_reports(report: Report, again: Report) -> str:
    """Return what differs between a report and a re-run of some of its items; empty for nothing.

    Args:
        report: Signed report.
        again: Report of the re-run, with texts or with their digests.
    """
    for metric, entry in again["metrics"].items():
        places = {key: place for place, key in enumerate(report["metrics"][metric]["keys"])}
        for side in ("mission", "baseline"):
            problem = _compare_scores(
                f"{metric}.{side}",
                _rows(report["metrics"][metric].get(side)),
                _rows(entry.get(side)),
                [places[key] for key in entry["keys"]],
                entry["keys"],
            )
            if problem:
                return problem
    return _compare_outputs(report, again)


def _compare_scores(
    name: str,
    signed: Sequence[Sequence[float]],
    again: Sequence[Sequence[float]],
    places: Sequence[int],
    keys: Sequence[str],
) -> str:
    if len(signed) != len(again):
        return f"{name} has {len(again)} seeds in the re-run, {len(signed)} in the report"
    for seed, (left, right) in enumerate(zip(signed, again, strict=True)):
        for key, place, score in zip(keys, places, right, strict=True):
            if abs(left[place] - score) > SCORE_TOLERANCE:
                return (
                    f"{name} of item {key}, seed {seed}, is {left[place]:g} in the report and "
                    f"{score:g} in the re-run"
                )
    return ""


def _compare_outputs(report: Report, again: Report) -> str:
    signed, rerun = report["evidence"]["outputs"], again["evidence"]["outputs"]
    if set(signed) != set(rerun):
        return f"outputs of {sorted(rerun)} in the re-run, of {sorted(signed)} in the report"
    metric, entry = next(iter(again["metrics"].items()))
    places = {key: place for place, key in enumerate(report["metrics"][metric]["keys"])}
    different, total = [], 0
    for side, rows in rerun.items():
        for seed, row in enumerate(rows):
            for key, digest in zip(entry["keys"], row, strict=True):
                total += 1
                if signed[side][seed][places[key]] != digest:
                    different.append(f"{side} of item {key}, seed {seed}")
    if len(different) > TOLERATED_SHARE * total:
        return f"{len(different)} of {total} texts differ, such as {different[0]}"
    return ""


def _run_group(
    arguments: Sequence[str], members: Sequence[tuple[Report, Sequence[str]]], root: Path
) -> list[RerunResult]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = sorted({key for _, keys in members for key in keys})
        (folder / "items.json").write_text(json.dumps(items))
        own = ("--items", "items.json", "--out", "out", "--replies", "replies")
        paths = [str(folder / one) if place % 2 else one for place, one in enumerate(own)]
        (folder / "out").mkdir()
        command = [sys.executable, "-m", *arguments, *paths]
        finished = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
        if finished.returncode:
            last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
            problem = f"its command ended with {finished.returncode}: {last[:200]}"
            return [RerunResult(str(one["id"]), 0, problem) for one, _ in members]
        return [_compare_with_file(one, keys, folder / "out") for one, keys in members]


def _compare_with_file(report: Report, keys: Sequence[str], folder: Path) -> RerunResult:
    study = str(report["id"])
    path = folder / f"{study}.json"
    if not path.is_file():
        return RerunResult(study, 0, "its command wrote no report of these items")
    again = json.loads(path.read_text())
    measured = {key for entry in again["metrics"].values() for key in entry["keys"]}
    if missing := sorted(set(keys) - measured):
        return RerunResult(study, 0, f"item {missing[0]} is not in the study's data")
    return RerunResult(study, len(measured), compare_reports(report, again))


def _arguments(report: Report) -> list[str] | None:
    """Return module and arguments of a report's command; None if it cannot be re-run.

    The module is that of the table, never the report's: a report cannot choose what is executed.
    """
    module, part = RERUNS.get(str(report["id"]), ("", ""))
    words = shlex.split(str(report["command"]))
    if not module or words[:3] != ["python", "-m", module]:
        return None
    return [module, *words[3:], "--parts", part]


def _rows(scores: Any) -> Sequence[Sequence[float]]:
    if scores is None:
        return []
    return scores if isinstance(scores[0], list) else [scores]
