"""Report of the engine benchmark: JSON with one ``ratios`` object, and a Markdown table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.engine.measurement import Target


def write(out: Path, parts: Mapping[str, Any], targets: Mapping[str, Mapping[str, Target]]) -> None:
    """Write ``bench_engine.json`` and ``bench_engine.md`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    ratios = {
        f"{name}: {what}": value
        for name in sorted(parts)
        for what, value in parts[name]["ratios"].items()
    }
    report = {"command": "make bench-engine", "ratios": ratios, "measures": dict(parts)}
    (out / "bench_engine.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    lines = ["# The engine", "", "| ratio | measured | target | |", "| --- | --- | --- | --- |"]
    for name in sorted(parts):
        for what, value in parts[name]["ratios"].items():
            lines.append(_row(f"{name}: {what}", value, targets[name].get(what)))
    for name in sorted(parts):
        part = parts[name]
        lines += ["", f"## {name}", ""]
        lines += [f"- {key}: {_text(value)}" for key, value in part["figures"].items()]
        lines += [f"- {note}" for note in part["notes"]]
        lines += [f"- threads {part['threads']}, load before {part['load']}"]
    (out / "bench_engine.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[: 4 + len(ratios)]))


def _row(name: str, value: float | None, target: Target | None) -> str:
    if value is None:
        return f"| {name} | not measured | {_bar(target)} | |"
    if target is None:
        return f"| {name} | {value} | | |"
    return f"| {name} | {value} | {_bar(target)} | {'met' if target.met(value) else 'missed'} |"


def _bar(target: Target | None) -> str:
    return f"{'≤' if target.at_most else '≥'} {target.bar}" if target else ""


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return str(value)
