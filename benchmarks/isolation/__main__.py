"""Command of the isolation benchmark: ``python -m benchmarks.isolation``.

It attacks a fleet that runs already (``make up``), and writes for each attack the p95 latency of
another client's completions of 16 tokens, relative to its p95 in the quiet rounds before and after.
Each of the two clients has a key of its own, which the benchmark adds to the local fleet and
removes at its end: one client is what has one key. The last row has two busy processes instead of
an attack, and compares medians.
"""

import argparse
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bem_fleet.cli.local.plan import Plan

from benchmarks.isolation.attacks import (
    ATTACKS,
    BUSY,
    Attack,
    Fleet,
    keep_processors_busy,
    processors,
)
from benchmarks.isolation.client import Latency, MeasuredClient
from benchmarks.isolation.keys import user_keys

OUT = Path(__file__).resolve().parents[2] / "results"
NAMES = ("isolation-client", "isolation-attacker")
ATTACK_LIMIT, BUSY_LIMIT = 2.0, 3.0
# Before the first measured request the attack must be under way.
_LEAD_S = 2.0


def beside(
    attack: Attack, fleet: Fleet, client: MeasuredClient, size: tuple[int, float]
) -> Latency:
    """Measure the client while an attack runs."""
    stop = threading.Event()
    thread = threading.Thread(target=attack, args=(fleet, stop))
    thread.start()
    try:
        stop.wait(_LEAD_S)
        return client.run(*size)
    finally:
        stop.set()
        thread.join()


def measure(fleet: Fleet, client: MeasuredClient, names: list[str], size: tuple[int, float]) -> Any:
    """Run the attacks one after the other, each between two quiet rounds."""
    rows: list[dict[str, Any]] = []
    client.run(3, 0.0)  # warm-up
    before = client.run(*size)
    for name in names:
        attack = keep_processors_busy if name == BUSY else ATTACKS[name]
        under = beside(attack, fleet, client, size)
        after = client.run(*size)
        figure, limit = ("p50", BUSY_LIMIT) if name == BUSY else ("p95", ATTACK_LIMIT)
        quiet = (getattr(before, figure) + getattr(after, figure)) / 2
        row = {
            "attack": name,
            "figure": figure,
            "quiet_s": round(quiet, 3),
            "attacked_s": round(getattr(under, figure), 3),
            "ratio": round(getattr(under, figure) / quiet, 2),
            "limit": limit,
            "failed": under.failed,
            "requests": under.requests,
            "attacked_round": asdict(under),
            "quiet_rounds": [asdict(before), asdict(after)],
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
        before = after
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Write the report; rows of an earlier run that this one did not measure stay."""
    path, measured = OUT / "bench_isolation.json", {row["attack"]: row for row in rows}
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {row["attack"]: row for row in earlier} | measured
    rows = [known[name] for name in (*ATTACKS, BUSY) if name in known]
    load = os.getloadavg()[0]
    report = {"processors": processors(), "load": round(load, 1), "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        "# Isolation of clients",
        "",
        f"Latency of completions of 16 tokens beside each attack, on {processors()} processors.",
        "",
        "| attack | figure | quiet, s | attacked, s | ratio | limit | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['attack']} | {row['figure']} | {row['quiet_s']} | {row['attacked_s']} | "
        f"{row['ratio']} | {row['limit']} | {row['failed']} of {row['requests']} |"
        for row in rows
    ]
    lines += ["", "Command: `python -m benchmarks.isolation`"]
    (OUT / "bench_isolation.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Attack the fleet of ``make up`` and write the report."""
    names = [*ATTACKS, BUSY]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--requests", type=int, default=20, help="fewest requests of a round")
    parser.add_argument("--seconds", type=float, default=20.0, help="shortest time of a round")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    arguments = parser.parse_args()
    plan = Plan()
    gateway, sidecar, model = plan.address("gateway"), plan.address("router"), arguments.model
    host, _, port = gateway.rpartition(":")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the keys are removed even then
    with user_keys(plan.keys_file, NAMES) as (key, attacker_key):
        fleet = Fleet((host, int(port)), sidecar, model, attacker_key)
        client = MeasuredClient(f"http://{gateway}", model, key)
        rows = measure(fleet, client, arguments.only, (arguments.requests, arguments.seconds))
    write(rows)


if __name__ == "__main__":
    main()
