"""Intake and processing rate of the feedback queue: ``python -m benchmarks.feedback_intake``.

Redis writes to disk before it answers, as in the fleet. Concurrent callers send feedback of many
users with an idempotency key each, every call acknowledged on its own; then a consumer gives each
entry its effect. The run counts where each acknowledged feedback ended: as exactly one event, or it
is lost or repeated. The gateway's HTTP and the scrub are not part of it.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import redis
import uvloop
from bem_fleet.feedback.consumer import ConsumerTiming, FeedbackConsumer
from bem_fleet.feedback.intake import FeedbackIntake
from bem_fleet.feedback.limits import IntakeLimits, ProcessorLimits
from bem_fleet.feedback.record import FeedbackRecord
from fleet.testing import RedisServer

OUT = Path(__file__).resolve().parents[1] / "results"
CALLS, USERS, FAMILIES, TEXT_CHARS = 256, 500, 50, 200
TARGET_PER_S = 5000
_UNBOUNDED = 10**9


def record(number: int) -> FeedbackRecord:
    """Return a correction of the size of a short answer, different from all others."""
    user = f"{number % USERS:032x}"
    return FeedbackRecord(
        completion_id=f"c{number}",
        received_unix_ms=number,
        consent=True,
        user=f"{user}-{user}",
        rating="down",
        correction=f"{number} ".ljust(TEXT_CHARS, "x"),
        prompt=f"question {number % FAMILIES}",
        tags=("wrong",),
    )


async def intake_rate(url: str, seconds: float) -> dict[str, Any]:
    """Send feedback for some seconds; return the rate, latencies and acknowledged completions."""
    limits = IntakeLimits(rate=_UNBOUNDED, backlog=_UNBOUNDED)
    intake = FeedbackIntake(url, limits)
    acknowledged: list[str] = []
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    numbers = iter(range(_UNBOUNDED))

    async def send() -> None:
        for number in numbers:
            began = time.perf_counter()
            if began >= end:
                return
            one = record(number)
            await intake.submit(one, f"key-{number}")
            acknowledged.append(one.completion_id)
            latencies.append(time.perf_counter() - began)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(send() for _ in range(CALLS)))
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    intake.close()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {
        "acknowledged": acknowledged,
        "per_s": len(acknowledged) / elapsed,
        "client_cpu_us": used / len(acknowledged) * 1e6,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


async def processing_rate(url: str) -> float:
    """Process the whole queue and return entries per second."""
    limits = ProcessorLimits(user_share=_UNBOUNDED, family_events=_UNBOUNDED)
    consumer = FeedbackConsumer(url, limits=limits, timing=ConsumerTiming(block_s=0.01))
    began, count = time.perf_counter(), 0
    while processed := await consumer.round():
        count += processed
    elapsed = time.perf_counter() - began
    consumer.close()
    return count / elapsed


async def measure(url: str, seconds: float) -> dict[str, Any]:
    """Return the figures of one run."""
    with redis.Redis.from_url(url, decode_responses=True) as store:
        cpu = _redis_cpu_s(store)
        figures = await intake_rate(url, seconds)
        acknowledged = figures.pop("acknowledged")
        figures["redis_cpu_us"] = (_redis_cpu_s(store) - cpu) / len(acknowledged) * 1e6
        figures["redis_bytes_per_entry"] = store.info("memory")["used_memory"] / len(acknowledged)
        figures["processed_per_s"] = await processing_rate(url)
        ended = Counter(
            json.loads(text.split(" ", 2)[2])["completion_id"]
            for text in store.hvals("bem:feedback:events")
        )
        figures["acknowledged"] = len(acknowledged)
        figures["lost"] = sum(one not in ended for one in acknowledged)
        figures["repeated"] = sum(count > 1 for count in ended.values())
        figures["left_in_queue"] = store.xlen("bem:feedback")
    return figures


def _redis_cpu_s(store: "redis.Redis") -> float:
    used = store.info("cpu")
    return float(used["used_cpu_sys"] + used["used_cpu_user"])


def sync_ms(folder: Path, count: int = 20) -> float:
    """Return the median time of a write of 4 KiB to disk in a folder, in milliseconds."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="time of the intake")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        disk_ms = sync_ms(Path(folder))
        server = RedisServer(Path(folder))
        server.start()
        try:
            figures = uvloop.run(measure(server.url, seconds))
        finally:
            server.kill()
    figures["disk_sync_ms"] = disk_ms
    load = os.getloadavg()[0]
    report = {
        "setup": {"calls": CALLS, "users": USERS, "families": FAMILIES, "seconds": seconds},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}",
        "figures": {name: round(value, 1) for name, value in figures.items()},
        "target": {"per_s": TARGET_PER_S, "lost": 0, "repeated": 0},
        "command": "python -m benchmarks.feedback_intake",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench_feedback.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [
        f"# Feedback intake, {CALLS} calls at once, {report['machine']}",
        "",
        f"Target: {TARGET_PER_S} a second, nothing lost or repeated.",
        "",
        "| figure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:,.1f} |" for name, value in figures.items()),
    ]
    (OUT / "bench_feedback.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
