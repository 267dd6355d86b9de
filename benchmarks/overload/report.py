"""Report of the overload benchmark."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMMAND = "python -m benchmarks.overload"
_COLUMNS = {
    "load": "load",
    "goodput / peak": "goodput_of_peak",
    "refused": "refused",
    "with a delay": "refused_with_a_delay",
    "refusal p50, ms": "refusal_ms_p50",
    "p95, ms": "refusal_ms_p95",
    "no answer": "without_an_answer",
    "other errors": "other_errors",
    "mirrored / answered": "mirrored_share_of_answers",
    "light tenants answered": "light_tenants_answered",
    "least of fair share": "least_of_fair_share",
    "Jain": "jain_index",
    "not ready": "not_ready_polls",
    "canary": "canary_phase",
}


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``bench_overload.json`` and its table.

    Args:
        folder: Folder of the report.
        found: Setting and figures of the run.
    """
    found = {**found, "load_average": round(os.getloadavg()[0], 1)}
    (folder / "bench_overload.json").write_text(json.dumps(found, indent=1) + "\n")
    setting = (
        f"`{found['command']}` on {found['processors']} processors: completions of "
        f"{found['tokens']} tokens, Poisson arrivals at multiples of the saturation rate. "
        f"Tenants: {found['tenants']}. Canary: {found['canary']}. Goodput: answers within "
        f"{found['deadline_s']:g} s, for {found['window_s']:g} s of each load. A fair share is "
        "max-min: nobody more than asked for, the rest evenly."
    )
    closed = (
        f"Closed loop: {found['saturation_of_peak']} of the peak goodput, "
        f"{found['saturation_mirrored_share']} mirrored calls for each answer; with equal tenants "
        f"{found['equal_tenants_of_peak']} of the peak. Load average at "
        f"the end: {found['load_average']}."
    )
    lines = ["# Overload", "", setting, "", closed, ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", f"| {' | '.join('---' for _ in _COLUMNS)} |"]
    for row in found["rows"]:
        cells = {name: row[field] for name, field in _COLUMNS.items()}
        cells["refused"] = f"{row['refused'] / row['requests']:.0%}"
        cells["with a delay"] = f"{row['refused_with_a_delay']} of {row['refused']}"
        cells["not ready"] = f"{row['not_ready_polls']} of {row['ready_polls']}"
        lines.append(f"| {' | '.join(str(one) for one in cells.values())} |")
    (folder / "bench_overload.md").write_text("\n".join(lines) + "\n")
