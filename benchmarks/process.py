"""Start-up time and memory of the router process: ``python -m benchmarks.process``."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import psutil
from bem_fleet.services.router.servicer import SERVICE
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"


def start(cache: Path) -> dict[str, float]:
    """Start a router and return its start-up time in seconds and its resident memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/r.sock"
        settings = {"BEM_ROUTER_ADDRESS": address, "BEM_ROUTER_CACHE": str(cache)}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "bem_fleet.services.router"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stderr=subprocess.DEVNULL,
        )
        try:
            with grpc.insecure_channel(address) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(
                    health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True, timeout=180
                )
                next(a for a in watch if a.status == health_pb2.HealthCheckResponse.SERVING)
            seconds = time.perf_counter() - began
            resident = psutil.Process(process.pid).memory_info().rss / 2**20
        finally:
            process.terminate()
            process.wait()
    return {"seconds": seconds, "resident_mib": resident}


def main() -> None:
    """Measure one cold and five warm starts."""
    with tempfile.TemporaryDirectory() as cache:
        cold = start(Path(cache))
        warm = [start(Path(cache)) for _ in range(5)]
    report: dict[str, Any] = {
        "cold_start_s": round(cold["seconds"], 1),
        "warm_start_s": round(statistics.median(w["seconds"] for w in warm), 1),
        "resident_mib": round(statistics.median(w["resident_mib"] for w in warm)),
        "note": "cold: the gguf file is de-quantised first; 16 rows x 2048 positions of cache",
        "command": "python -m benchmarks.process",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_process.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = ["# The router process", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in report.items()]
    (OUT / "bench_process.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
