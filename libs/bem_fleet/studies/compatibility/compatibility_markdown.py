"""Markdown page of the compatibility study: the matrix of pairs, all five, and the latency."""

from collections.abc import Mapping
from typing import Any

from bem_fleet.studies.compatibility.mission_items import MISSIONS


def markdown(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        reports: Reports by study id, at least one.
    """
    first = next(iter(reports.values()))
    seeds = ", ".join(map(str, first["seeds"]))
    lines = [
        "# Compatibility of the missions",
        "",
        f"Split {first['split']}, weights {first['weights']}, training seeds {seeds}.",
        f"F1 with 95 % intervals over {first['unit']}s.",
        "",
        *_absences(first["without"]),
    ]
    if pairs := reports.get("fleet_pairwise"):
        lines += _pairs(pairs["matrix"]) + _interference(pairs["matrix"])
    if fleet := reports.get("fleet_all_five"):
        lines += _fleet(fleet["matrix"])
    if timed := first.get("latency"):
        lines += _latency(timed)
    return "\n".join(lines) + "\n"


def _absences(without: Mapping[str, Mapping[str, str]]) -> list[str]:
    rows = [
        f"- {mission}, {seed}: {text}"
        for seed, missing in without.items()
        for mission, text in missing.items()
    ]
    return ["Not trained yet:", "", *rows, ""] if rows else []


def _pairs(matrix: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Pairs against the better of the two alone",
        "",
        "| pair | together | better alone | difference [95 % CI] | items | clusters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in matrix.items():
        lines.append(f"| {name.replace('_with_', ' + ')} | {_cells(row['f1'])} |")
    return [*lines, ""]


def _interference(matrix: Mapping[str, Any]) -> list[str]:
    """Return the table of what the mission of a column does to the set of a row's mission."""
    found = {
        name: row
        for pair in matrix.values()
        for name, row in pair["interference"].items()
        if row["items"]
    }
    lines = [
        "## Interference: F1 on a mission's set with another active, less alone",
        "",
        f"| set | {' | '.join(MISSIONS)} |",
        f"| --- |{' --- |' * len(MISSIONS)}",
    ]
    for own in MISSIONS:
        cells = [_interval(found.get(f"{other} on {own}")) for other in MISSIONS]
        lines.append(f"| {own} | {' | '.join(cells)} |")
    return [*lines, ""]


def _fleet(matrix: Mapping[str, Any]) -> list[str]:
    lines = [
        "## All five against each alone",
        "",
        "| set | all five | alone | difference [95 % CI] | items | clusters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {name} | {_cells(row)} |" for name, row in matrix.items()]
    return [*lines, ""]


def _latency(timed: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Latency",
        "",
        f"{timed['rounds']} rounds of one request of each set, one at a time.",
        "Ratios are to the slowest of the missions alone.",
        "",
        "| missions | median round, s | ratio [95 % CI] | slowest alone |",
        "| --- | --- | --- | --- |",
    ]
    for name, seconds in timed["p50_s"].items():
        row = timed["ratios"].get(name)
        ratio = "1" if row is None else _bounds(row["ratio"], row, "")
        lines.append(
            f"| {name} | {seconds:.2f} | {ratio} | {row['slowest_alone'] if row else ''} |"
        )
    return [*lines, ""]


def _cells(row: Mapping[str, Any]) -> str:
    return (
        f"{row['together']:.3f} | {row['alone']:.3f} | {_interval(row)} | {row['items']} | "
        f"{row['clusters']}"
    )


def _interval(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else _bounds(row["difference"], row, "+")


def _bounds(value: float, row: Mapping[str, Any], sign: str) -> str:
    text = f"{value:{sign}.3f}"
    if row["ci_low"] is None:
        return text
    return f"{text} [{row['ci_low']:{sign}.3f}, {row['ci_high']:{sign}.3f}]"
