"""Measure the engine: ``python -m benchmarks.engine [--only NAME ...] [--rounds N]``.

Each measure runs in a process of its own; what is measured anew replaces its part of the report.
"""

import argparse
import json
import os
import pkgutil
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import measures
from benchmarks.engine.report import write

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results"


def names() -> list[str]:
    """Return all measures by name."""
    return sorted(module.name for module in pkgutil.iter_modules(measures.__path__))


def load(name: str) -> Any:
    """Return a measure's module."""
    return import_module(f"benchmarks.engine.measures.{name}")


def apart(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Run one measure in a fresh process and return what it found."""
    load = round(os.getloadavg()[0], 1)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-m", "benchmarks.engine", "--one", name, "--rounds", str(rounds)]
    shown = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    return found | {"threads": threads or torch.get_num_threads(), "load": load}


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names(), default=names())
    parser.add_argument("--one", choices=names(), help="print one measure's result and stop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of both sides; 0: all cores")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(load(arguments.one).run(arguments.rounds))))
        return
    path = OUT / "bench_engine.json"
    parts: dict[str, Any] = json.loads(path.read_text())["measures"] if path.exists() else {}
    for name in arguments.only:
        print(f"{name} ...", flush=True)
        parts[name] = apart(name, arguments.rounds, arguments.threads)
        targets = {n: load(n).TARGETS for n in parts}
        write(OUT, parts, targets)


if __name__ == "__main__":
    main()
