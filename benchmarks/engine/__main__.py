"""Engine benchmark: ``python -m benchmarks.engine [--only NAME ...] [--rounds N]``.

Each measure runs in a process of its own. Its result replaces its part of the report.
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


def measure_names() -> list[str]:
    """Return the names of all measures."""
    return sorted(module.name for module in pkgutil.iter_modules(measures.__path__))


def measure_module(name: str) -> Any:
    """Return the module of a measure."""
    return import_module(f"benchmarks.engine.measures.{name}")


def run_in_process(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Run one measure in a process of its own and return its result."""
    load_average = round(os.getloadavg()[0], 1)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-m", "benchmarks.engine", "--one", name, "--rounds", str(rounds)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"threads": threads or torch.get_num_threads(), "load": load_average}


def stored_parts(path: Path) -> dict[str, Any]:
    """Return the parts of an earlier report whose measures still exist."""
    if not path.exists():
        return {}
    stored: dict[str, Any] = json.loads(path.read_text())["measures"]
    return {name: stored[name] for name in measure_names() if name in stored}


def main() -> None:
    """Run the measures and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=measure_names(), default=measure_names())
    parser.add_argument(
        "--one", choices=measure_names(), help="run one measure in this process, print its result"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of all sides; 0: all cores")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(measure_module(arguments.one).run(arguments.rounds))))
        return
    path = OUT / "bench_engine.json"
    parts = stored_parts(path)
    for name in arguments.only:
        print(f"{name} ...", flush=True)
        parts[name] = run_in_process(name, arguments.rounds, arguments.threads)
        targets = {n: measure_module(n).TARGETS for n in parts}
        write(OUT, parts, targets)


if __name__ == "__main__":
    main()
