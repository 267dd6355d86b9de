"""Serving overhead of gateway, sidecar and gRPC: ``python -m benchmarks.overhead``.

The engine is a mock with a fixed token rate, and the latency of the same mock in process is
subtracted. Requests arrive open-loop at 50 per second; blocks with and without servers alternate.

A mock leaves the processors idle where a model would compute, so that every hop pays for a wake-up
and cold caches. Each block therefore runs twice: with the machine's idle states, and with the
processors kept awake as under a working model (PM QoS, ``/dev/cpu_dma_latency``).
"""

import asyncio
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from bem.engine import GenerationRequest
from fleet.testing import RedisServer, free_port

from benchmarks.mock_engine import WORDS, MockEngine, in_process_seconds

ROOT = Path(__file__).resolve().parents[1]
RATE, BLOCK_REQUESTS, ROUNDS = 50, 200, 5
PM_QOS = Path("/dev/cpu_dma_latency")
OUT = ROOT / "results"


@contextmanager
def servers() -> Iterator[tuple[int, int]]:
    """Run Redis, mock mission, sidecar and gateway; and yield the ports of gateway and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        sidecar, gateway, pages = (free_port() for _ in range(3))
        socket = f"unix:{folder}/m.sock"
        environment = {
            "BEM_ROUTER_ADDRESS": socket,
            "BEM_SAFETY_UPSTREAM": socket,
            "BEM_SAFETY_ADDRESS": f"127.0.0.1:{sidecar}",
            "BEM_SAFETY_PAGES_ADDRESS": f"127.0.0.1:{pages}",
            "BEM_GATEWAY_ADDRESS": f"127.0.0.1:{gateway}",
            "BEM_GATEWAY_MISSIONS": json.dumps({"router": f"127.0.0.1:{sidecar}"}),
            "BEM_SAFETY_REDIS_URL": redis.url,
            "BEM_GATEWAY_REDIS_URL": redis.url,
        }
        modules = (
            "benchmarks.mock_engine",
            "bem_fleet.services.safety",
            "bem_fleet.services.gateway",
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **environment},
                stderr=subprocess.DEVNULL,
            )
            for module in modules
        ]
        try:
            _wait_ready(gateway)
            yield gateway, pages
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            redis.kill()


def _wait_ready(port: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the servers are not ready after 60 s")


class HttpClient:
    """Minimal HTTP client with kept-alive connections, so that the client adds little latency."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, *, stream: bool) -> float:
        """Return the seconds from the first byte of the request to the last of the response."""
        body = json.dumps({"model": "tiny", "prompt": "hi", "stream": stream}).encode()
        began = time.perf_counter()
        # The server closes connections that were idle for five seconds.
        self._idle = [pair for pair in self._idle if not pair[0].at_eof()]
        pair = (
            self._idle.pop()
            if self._idle
            else await asyncio.open_connection("127.0.0.1", self._port)
        )
        reader, writer = pair
        head = "POST /v1/completions HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.splitlines()[0]:
            raise RuntimeError(answer.decode())
        if stream:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            lines = answer.lower().split(b"content-length: ")[1]
            await reader.readexactly(int(lines.split(b"\r\n")[0]))
        seconds = time.perf_counter() - began
        self._idle.append(pair)
        return seconds


async def run_block(ask: Callable[[], Awaitable[float]]) -> list[float]:
    """Send one block of requests open-loop and return the latencies in seconds."""
    began = time.perf_counter()
    tasks = []
    for index in range(BLOCK_REQUESTS):
        await asyncio.sleep(max(0.0, began + index / RATE - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask()))
    return list(await asyncio.gather(*tasks))


@contextmanager
def keep_processors_awake() -> Iterator[None]:
    """Keep the processors out of idle states within the block."""
    with PM_QOS.open("wb", buffering=0) as request:
        request.write(struct.pack("i", 0))
        yield


def scorer_totals(pages: int) -> dict[str, float]:
    """Return total seconds and number of the scorer's batches so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{pages}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    # The deep scorer caches requests by content, so only the fast tier runs per request.
    start = {name: f'bem_safety_check_seconds_{name}{{tier="fast"}}' for name in ("sum", "count")}
    values = {
        name: next(line.split()[1] for line in lines if line.startswith(begin))
        for name, begin in start.items()
    }
    return {name: float(value) for name, value in values.items()}


async def measure(gateway: int, pages: int) -> dict[str, Any]:
    """Run the alternating blocks and return milliseconds by state of the processors."""
    engine, client = MockEngine(), HttpClient(gateway)
    request = GenerationRequest((1,))
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "in process": lambda: in_process_seconds(engine, request),
        "unary": lambda: client.ask(stream=False),
        "streamed": lambda: client.ask(stream=True),
    }
    states: dict[str, Callable[[], AbstractContextManager[None]]] = {"as it is": nullcontext}
    if os.access(PM_QOS, os.W_OK):
        states["kept awake"] = keep_processors_awake
    for ask in ways.values():
        await run_block(ask)  # warm-up, not counted
    rounds: dict[str, dict[str, list[tuple[float, float]]]] = {
        state: {name: [] for name in ways} for state in states
    }
    scored = dict.fromkeys(states, (0.0, 0.0))
    for _ in range(ROUNDS):
        for state, keep in states.items():
            before = scorer_totals(pages)
            with keep():
                for name, ask in ways.items():
                    p50, p95 = np.percentile(await run_block(ask), [50, 95]) * 1000
                    rounds[state][name].append((float(p50), float(p95)))
            after = scorer_totals(pages)
            seconds, batches = scored[state]
            scored[state] = (
                seconds + after["sum"] - before["sum"],
                batches + after["count"] - before["count"],
            )
    return {state: summarize(rounds[state], *scored[state]) for state in states}


def summarize(
    rounds: dict[str, list[tuple[float, float]]], scorer_s: float, batches: float
) -> dict[str, Any]:
    """Return the latency that the servers add to the in-process blocks of the same rounds."""
    # Earlier batches overlap with generation; only the last one adds latency.
    scorer_ms = 1000 * scorer_s / batches
    base = np.array(rounds["in process"])
    figures: dict[str, Any] = {
        "scorer_ms_per_batch": round(scorer_ms, 3),
        "scorer_batches_per_answer": round(batches / (2 * ROUNDS * BLOCK_REQUESTS), 2),
        "in_process_ms": dict(zip(("p50", "p95"), np.median(base, axis=0).round(2), strict=True)),
    }
    for name in ("unary", "streamed"):
        added = np.median(np.array(rounds[name]) - base, axis=0)
        figures[name] = {
            "added_p50_ms": round(float(added[0]), 2),
            "added_p95_ms": round(float(added[1]), 2),
            "added_p50_without_scorer_ms": round(float(added[0]) - scorer_ms, 2),
            "added_p95_without_scorer_ms": round(float(added[1]) - scorer_ms, 2),
            "added_p50_ms_per_token": round(float(added[0]) / len(WORDS), 3),
        }
    return figures


def main() -> None:
    """Measure and write JSON and Markdown."""
    with servers() as (gateway, pages):
        figures = uvloop.run(measure(gateway, pages))
    setup = {"rate_per_s": RATE, "requests_per_block": BLOCK_REQUESTS, "rounds": ROUNDS}
    setup |= {"tokens_per_answer": len(WORDS)}
    report = {
        "setup": setup,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "figures": figures,
        "target": {"added_p50_without_scorer_ms": 4.0, "added_p95_without_scorer_ms": 8.0},
        "command": "python -m benchmarks.overhead",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_overhead.json").write_text(json.dumps(report, indent=2, default=float) + "\n")
    lines = [
        f"# Overhead at {RATE} requests/s, medians of {ROUNDS} paired rounds of {BLOCK_REQUESTS}",
        "",
        (
            "| processors | way | added p50 | added p95 | p50 without scorer | p95 without scorer "
            "| p50 a token |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {state} | {name} | "
        + " | ".join(f"{value:.2f} ms" for value in found[name].values())
        + " |"
        for state, found in figures.items()
        for name in ("unary", "streamed")
    ]
    batch = " and ".join(f"{found['scorer_ms_per_batch']:.2f}" for found in figures.values())
    lines += ["", f"The scorer itself: {batch} ms a batch; one is subtracted."]
    (OUT / "bench_overhead.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
