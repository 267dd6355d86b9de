"""Gate Bench command: ``python -m benchmarks.gates`` (``make bench-gate``), some minutes.

``--root`` is the seed of the traces. The committed table has root 2026; the gates were developed on
other roots only. ``--scenarios`` and ``--gates`` run a part; the report keeps the rest. The
recorded traces are in ``recorded_traces.json``, written by ``benchmarks.gates.record_traces``.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gates import recorded_traces
from benchmarks.gates.bootstrap_gates import (
    PLANNED_PAIRS,
    bca_gate,
    bca_gate_peeked,
    percentile_gate,
)
from benchmarks.gates.canary_gates import (
    canary_gate,
    canary_gate_split,
    canary_gate_split_bets,
    canary_gate_strict,
)
from benchmarks.gates.decisions import GateDecisions
from benchmarks.gates.kayenta import kayenta_gate, kayenta_gate_split
from benchmarks.gates.report import render_markdown, scenario_result, summarize_gate
from benchmarks.gates.threshold_gates import argo_gate, flagger_gate
from benchmarks.gates.traces import HORIZON, LOOK, SCENARIOS, Traces, draw_traces

OUT = Path(__file__).resolve().parents[2] / "results"
GATES: dict[str, Callable[[Traces], GateDecisions]] = {
    "Argo-style threshold": argo_gate,
    "Flagger-style threshold": flagger_gate,
    "Kayenta-style Mann-Whitney": kayenta_gate,
    "Kayenta-style, unpaired split": kayenta_gate_split,
    "naive percentile bootstrap": percentile_gate,
    "fixed-n BCa + BH, one look": bca_gate,
    "fixed-n BCa + BH, watched": bca_gate_peeked,
    "ours": canary_gate,
    "ours, promotion at 1 %": canary_gate_strict,
    "ours, unpaired split": canary_gate_split,
    "ours, unpaired split, bets alone": canary_gate_split_bets,
}
NOTES = [
    """False promotion, harmful: the worst of -5 % (alone, autocorrelated, and real), latency +10 %,
    safety drift (violations from 0.2 % to 0.7 % over 2,000 requests) and slow tail (every tenth
    request 100 times slower); the last three come with a real +1.5 % of quality.""",
    """False promotion, no gain: the worst of null, heavy tails (Pareto index 1.5), heavier tails
    (1.1), mixed traffic, correlated metrics, clustered errors (in spells of ten pairs on average)
    and autocorrelated latencies (0.9 from pair to pair) (and real A/A). The threshold gates and
    Kayenta's do not ask for a gain, they promote
    what is not shown bad: for them this column says how they are meant to work.""",
    """False rollback: the worst of those and of +1.5 %. For ours that is clustered errors: a spell
    in which the canary alone fails ten of fifty requests is an outage, and the tripwire ends the
    canary (without tripwires 0.0 % of the first 200 are rolled back); elsewhere it is 0.6 %.""",
    """FDR: of all promotions over the scenarios, those without a gain or with harm. One scenario
    alone is good, so 5 % a canary is more than 5 % of the promotions: the row at 1 % is the same
    gate with that in mind.""",
    """Bad answers: wrong or unsafe where stable was not, served by the canary until it is stopped,
    promoted or at its horizon; promoted canaries go on serving them, which is not counted.""",
    f"""Fixed n is {PLANNED_PAIRS:,} pairs: +1.5 % at power 0.8, two-sided 5 %. Its one look is the
    first at or after them.""",
    """Ours and the bootstraps need the same request on both sides (a shadow). On an unpaired split
    the canaries are the same, but stable answered other requests; there ours spends its alpha by
    sign flips where the metric is frequent (bem_fleet.stats.spending), and the row with bets alone
    is the gate for pairs used as it is. Kayenta's reads one point of 100 requests an arm.""",
    """CPU is vectorised over the seeds: a share, not the cost of one canary alone.""",
    """No limit of any gate was chosen by these results; limits are in benchmarks/gates. Those of
    the unpaired split were chosen on traces of root 7; that its sign flips need more replicates
    was first seen on these, at latency +10 %.""",
]
REAL_NOTE = """Real: the adapter passage-qa answered its 121 held-out questions twice at temperature
    0.7, one request at a time (benchmarks/gates/recorded_traces.json); requests are drawn
    from these. The
    -5 % canary hands a share of them to the base model with two examples, as it answered; it breaks
    the form so often that tripwires stop it first. Stable itself breaks it in 0.4 % of replies, so
    that 2.5 % of the A/A canaries have 5 in 100 once in 10,000 requests; a tripwire also asks that
    the pairs show more of it than stable has, within alpha. Latencies are of a machine that others
    shared: two equal arms, not a quiet server."""
ResultTable = dict[str, dict[str, dict[str, Any]]]


def run_scenario(traces: Traces, gates: Sequence[str], cells: ResultTable) -> None:
    """Run gates on one scenario and add the results to ``cells``, by gate and scenario."""
    name = traces.scenario.name
    for gate in gates:
        began = time.process_time()
        outcomes = GATES[gate](traces)
        found = scenario_result(traces, outcomes, time.process_time() - began)
        cells.setdefault(gate, {})[name] = found
        print(
            f"{name:20} {gate:32} promoted {found['promoted']:.3f} "
            f"rolled back {found['rolled_back']:.3f} after {found['median_requests']}",
            flush=True,
        )


def load_earlier_results(folder: Path, seeds: int, root: int) -> ResultTable:
    """Return the cells of the existing report of the same traces.

    Raises:
        SystemExit: No report exists, or it has other traces.
    """
    path = folder / "bench_gate.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if (found.get("seeds"), found.get("root")) != (seeds, root):
        raise SystemExit(f"{path.name} holds no cells of {seeds} seeds of root {root}: run all")
    kept: ResultTable = found["cells"]
    return kept


def main() -> None:
    """Run the gates on the scenarios and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--root", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=OUT)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenarios", nargs="*", choices=names, help="these alone")
    parser.add_argument("--gates", nargs="*", choices=list(GATES), help="these alone")
    options = parser.parse_args()
    whole = options.scenarios is None and options.gates is None
    cells: ResultTable = (
        {} if whole else load_earlier_results(options.out, options.seeds, options.root)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for scenario in SCENARIOS:
        if scenario.name not in (options.scenarios or names):
            continue
        run_scenario(
            draw_traces(scenario, options.seeds, options.root), options.gates or list(GATES), cells
        )
        report = {
            "seeds": options.seeds,
            "root": options.root,
            "horizon": HORIZON,
            "look": LOOK,
            "summary": {
                gate: summarize_gate(found)
                for gate, found in cells.items()
                if set(names) <= set(found)
            },
            "cells": {gate: cells[gate] for gate in GATES if gate in cells},
            "notes": [*NOTES, REAL_NOTE] if recorded_traces.FILE.exists() else NOTES,
            "command": "python -m benchmarks.gates",
        }
        (options.out / "bench_gate.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.out / "bench_gate.md").write_text(render_markdown(report))
    print(render_markdown(report))


if __name__ == "__main__":
    main()
