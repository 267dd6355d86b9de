"""Run Gate Bench: ``python -m benchmarks.gates`` (``make bench-gate``), some minutes.

``--root`` chooses the traces. The committed table is of root 2026; while the gates were written
only other roots were drawn. The real traces are in ``recorded.json``; ``record`` makes them anew.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gates.kayenta import kayenta, kayenta_unpaired
from benchmarks.gates.outcome import Outcomes
from benchmarks.gates.report import cell, markdown, summary
from benchmarks.gates.resampled import PLANNED, bca_bh, bca_bh_peeked, percentile
from benchmarks.gates.sequential import ours, ours_strict, ours_unpaired, ours_unpaired_bets
from benchmarks.gates.threshold import argo, flagger
from benchmarks.gates.traces import HORIZON, LOOK, SCENARIOS, Traces, draw

OUT = Path(__file__).resolve().parents[2] / "docs/results"
GATES: dict[str, Callable[[Traces], Outcomes]] = {
    "Argo-style threshold": argo,
    "Flagger-style threshold": flagger,
    "Kayenta-style Mann-Whitney": kayenta,
    "Kayenta-style, unpaired split": kayenta_unpaired,
    "naive percentile bootstrap": percentile,
    "fixed-n BCa + BH, one look": bca_bh,
    "fixed-n BCa + BH, watched": bca_bh_peeked,
    "ours": ours,
    "ours, promotion at 1 %": ours_strict,
    "ours, unpaired split": ours_unpaired,
    "ours, unpaired split, bets alone": ours_unpaired_bets,
}
NOTES = [
    """False promotion, harmful: the worst of -5 %, real -5 %, latency +10 % and safety drift
    (violations from 0.2 % to 0.7 % over 2,000 requests); the last two come with a real +1.5 % of
    quality.""",
    """False promotion, no gain: the worst of null, heavy tails, mixed traffic, correlated metrics
    and real A/A. The threshold gates and Kayenta's do not ask for a gain, they promote what is not
    shown bad: for them this column says how they are meant to work.""",
    """False rollback: the worst of those five and of +1.5 %.""",
    """Real: the skill passage-qa answered its 121 held-out questions twice at temperature 0.7, one
    request at a time (benchmarks/gates/recorded.json); requests are drawn from these. The -5 %
    canary hands a share of them to the base model with two examples, as it answered.""",
    """FDR: of all promotions over the ten scenarios, those without a gain or with harm. One
    scenario of ten is good, so 5 % a canary is more than 5 % of the promotions: the row at
    1 % is the same gate with that in mind.""",
    """Bad answers: wrong or unsafe where stable was not, served by the canary until it is stopped,
    promoted or at its horizon; promoted canaries go on serving them, which is not counted.""",
    f"""Fixed n is {PLANNED:,} pairs: +1.5 % at power 0.8, two-sided 5 %. Its one look is the first
    at or after them.""",
    """Ours and the bootstraps need the same request on both sides (a shadow). On an unpaired split
    the canaries are the same, but stable answered other requests; there ours spends its alpha by
    sign flips where the metric is frequent (bem.stats.spending), and the row with bets alone is
    the gate for pairs used as it is. Kayenta's reads one point of 100 requests an arm.""",
    """CPU is vectorised over the seeds: a share, not the cost of one canary alone.""",
    """No limit of any gate was chosen by these results; limits are in benchmarks/gates. Those of
    the unpaired split were chosen on traces of root 7.""",
]


def run(seeds: int, root: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Run every gate on every scenario; returns cells by gate and scenario."""
    cells: dict[str, dict[str, dict[str, Any]]] = {gate: {} for gate in GATES}
    for scenario in SCENARIOS:
        traces = draw(scenario, seeds, root)
        for gate, decide in GATES.items():
            began = time.process_time()
            outcomes = decide(traces)
            cells[gate][scenario.name] = cell(traces, outcomes, time.process_time() - began)
            found = cells[gate][scenario.name]
            print(
                f"{scenario.name:20} {gate:28} promoted {found['promoted']:.3f} "
                f"rolled back {found['rolled_back']:.3f} after {found['median_requests']}",
                flush=True,
            )
    return cells


def main() -> None:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--root", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    began = time.perf_counter()
    cells = run(options.seeds, options.root)
    report = {
        "seeds": options.seeds,
        "root": options.root,
        "horizon": HORIZON,
        "look": LOOK,
        "summary": {gate: summary(found) for gate, found in cells.items()},
        "cells": cells,
        "notes": NOTES,
        "wall_s": round(time.perf_counter() - began),
        "command": "python -m benchmarks.gates",
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench_gate.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "bench_gate.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
