"""Replicas of the router: ``python -m benchmarks.replicas``.

Two real routers with a small prefix cache answer questions about shared documents, chosen by the
gateway's replica set and, in alternation, round robin. Figures are ratios of the same run.
"""

import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from bem_fleet.services.gateway import replicas
from bem_fleet.services.gateway.canary_attempt import Call
from bem_fleet.services.gateway.method_fields import MethodFields
from bem_fleet.services.gateway.replicas import Replica, ReplicaSet
from bem_fleet.services.router.servicer import SERVICE
from bemfleet.common.v1 import metrics_pb2, metrics_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from fleet.clients import open_channel, wait_ready
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
PODS, DOCUMENTS, QUESTIONS, WORDS, ROUNDS = 2, 8, 6, 330, 2
# A document takes about 20 MiB of keys and values: one pod holds five of the eight.
PREFIX_MIB = 110
METHOD = pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name["Generate"]
COUNTERS = ("bem_router_prompt_tokens_total", "bem_router_prefix_reused_tokens_total")


class RoundRobin(ReplicaSet):
    """Replica set that calls one pod after the other."""

    _turn = itertools.count()

    def _choose(self, key: str, tried: Collection[str]) -> Replica:
        del key
        left = [one for name, one in sorted(self._replicas.items()) if name not in tried]
        return left[next(self._turn) % len(left)]


@asynccontextmanager
async def pods(folder: Path) -> AsyncIterator[list[str]]:
    """Run the routers; yields their addresses."""
    addresses, processes = [], []
    for number in range(PODS):
        addresses.append(f"unix:{folder}/{number}.sock")
        settings = {
            "BEM_ROUTER_ADDRESS": addresses[-1],
            "BEM_ROUTER_CACHE": str(ROOT / ".cache/models"),
            "BEM_ROUTER_KERNELS_CACHE": str(ROOT / ".cache/kernels"),
            "BEM_ROUTER_PREFIX_MIB": str(PREFIX_MIB),
            "BEM_ROUTER_POLICY_FOLDER": str(folder / f"policy-{number}"),
            "BEM_ROUTER_ADAPTER_FOLDER": str(folder / "adapters"),
        }
        processes.append(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bem_fleet.services.router"),
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=subprocess.DEVNULL,
            )
        )
    try:
        for address in addresses:
            async with open_channel(address) as channel:
                await wait_ready(channel, SERVICE, 300)
        yield addresses
    finally:
        for process in processes:
            process.terminate()
            await process.wait()


def questions(seed: int) -> list[bytes]:
    """Return requests in random order: each document with several questions."""
    generator = random.Random(seed)
    words = ["river", "stone", "winter", "letter", "garden", "engine", "silver", "market"]
    documents = [
        f"Document {seed}-{one}. " + " ".join(generator.choices(words, k=WORDS))
        for one in range(DOCUMENTS)
    ]
    requests = [
        pb.GenerateRequest(prompt=f"{text}\nQuestion {each}: ", max_tokens=1)
        for text in documents
        for each in range(QUESTIONS)
    ]
    generator.shuffle(requests)
    return [one.SerializeToString() for one in requests]


async def counters(addresses: list[str]) -> list[float]:
    """Return the sums of the counters over all pods."""
    sums = [0.0] * len(COUNTERS)
    for address in addresses:
        async with open_channel(address) as channel:
            stub = metrics_pb2_grpc.MetricsServiceStub(channel)
            page: Any = await stub.Scrape(metrics_pb2.ScrapeRequest())
        for family in text_string_to_metric_families(page.exposition.decode()):
            for sample in family.samples:
                if sample.name in COUNTERS:
                    sums[COUNTERS.index(sample.name)] += sample.value
    return sums


async def ask(chosen: ReplicaSet, requests: list[bytes]) -> list[float]:
    """Send requests two at a time; return the times to the first token in seconds."""
    fields, left, times = MethodFields(METHOD), iter(requests), list[float]()

    async def client() -> None:
        for request in left:
            call = Call(fields.path, request, streams=True, timeout_s=120, metadata=())
            began = time.perf_counter()
            async with aclosing(chosen.messages(call, 120, fields.affinity(request))) as messages:
                await anext(messages)
                times.append(time.perf_counter() - began)
                async for _ in messages:
                    pass

    await asyncio.gather(*(client() for _ in range(PODS)))
    return times


async def measure(folder: Path) -> dict[str, Any]:
    """Run both choices in alternation."""
    ratios: dict[str, list[float]] = {"affine": [], "round robin": []}
    means: dict[str, list[float]] = {name: [] for name in ratios}
    async with pods(folder) as addresses, AsyncExitStack() as stack:

        async def look_up(_target: str) -> Collection[str]:
            return set(addresses)

        sets = {}
        service = await stack.enter_async_context(open_channel(addresses[0]))
        for name, kind in (("affine", ReplicaSet), ("round robin", RoundRobin)):
            sets[name] = kind("router", service, "pods:1", open_channel, resolve=look_up)
            stack.push_async_callback(sets[name].close)
            await sets[name].refresh()
        for round_ in range(ROUNDS):
            for place, (name, chosen) in enumerate(sets.items()):
                before = await counters(addresses)
                times = await ask(chosen, questions(10 * round_ + place))
                after = await counters(addresses)
                computed, reused = (b - a for a, b in zip(before, after, strict=True))
                ratios[name].append(reused / (computed + reused))
                means[name].append(statistics.mean(times))
    return {
        "hit_ratio": {name: round(statistics.mean(one), 3) for name, one in ratios.items()},
        "mean_ttft_s": {name: round(statistics.mean(one), 3) for name, one in means.items()},
    }


def main() -> None:
    """Measure and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder)))
    hits, ttft = found["hit_ratio"], found["mean_ttft_s"]
    found |= {
        "hit ratio, affine / round robin": round(hits["affine"] / hits["round robin"], 2),
        "mean TTFT, affine / round robin": round(ttft["affine"] / ttft["round robin"], 2),
        "pods": PODS,
        "documents": DOCUMENTS,
        "questions": QUESTIONS,
        "load_factor": replicas.LOAD_FACTOR,
        "command": "python -m benchmarks.replicas",
    }
    (OUT / "bench_replicas.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# Replicas of the router",
        "",
        f"`{found['command']}`: {PODS} routers, {DOCUMENTS} documents with {QUESTIONS} questions",
        "each in random order, a prefix cache that holds five documents.",
        "",
        "| choice | prompt tokens from the cache | mean TTFT |",
        "| --- | --- | --- |",
        *(f"| {name} | {hits[name]:.1%} | {ttft[name]:.3f} s |" for name in hits),
    ]
    (OUT / "bench_replicas.md").write_text("\n".join(lines) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
