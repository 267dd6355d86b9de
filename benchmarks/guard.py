"""Guard benchmark: latency, throughput and memory of scoring, by ``python -m benchmarks.guard``."""

import argparse
import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bem_fleet.data.benign_prompts import load_benign_responses
from bem_fleet.data.red_team import load_red_team, sample_prompts
from bem_fleet.guard.policy import load_policy
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.scorer_process import ScorerProcess
from bem_fleet.services.safety.settings import SafetySettings
from garak.detectors.unsafe_content import LDNOOBW

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results/bench_guard"
TOKENS = 256
# An English word has 1.3 tokens of this tokenizer.
WORDS = int(TOKENS / 1.3)
STREAM_STRIDE_TOKENS = 4


def texts(count: int) -> list[str]:
    """Return distinct benign texts of 256 tokens."""
    words = " ".join(one.text for one in load_benign_responses("dev")).split()
    return [" ".join(words[n * WORDS : (n + 1) * WORDS]) for n in range(count)]


async def measure_latency(
    work: Callable[[str], Awaitable[object]], inputs: Sequence[str]
) -> list[float]:
    """Return the seconds of each call; calls are made one after the other."""
    seconds = []
    for text in inputs:
        started = time.perf_counter()
        await work(text)
        seconds.append(time.perf_counter() - started)
    return seconds


async def measure_throughput(
    work: Callable[[str], Awaitable[object]], inputs: Sequence[str]
) -> float:
    """Return calls per second with 16 concurrent callers."""
    remaining = iter(inputs)

    async def call_repeatedly() -> None:
        for text in remaining:
            await work(text)

    started = time.perf_counter()
    await asyncio.gather(*(call_repeatedly() for _ in range(16)))
    return len(inputs) / (time.perf_counter() - started)


def table_row(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Return one row of the table, with the percentiles in ms."""
    p50, p95 = (float(np.percentile(seconds, q) * 1e3) for q in (50, 95))
    return {
        "what": name,
        "n": len(seconds),
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
    }


async def measure_rows(
    evaluator: PolicyEvaluator, inputs: Sequence[str], size: int
) -> list[dict[str, Any]]:
    """Return the latency rows of the table.

    Args:
        evaluator: Evaluator whose scorers are ready.
        inputs: Texts; the last four are for warm-up.
        size: Texts per row.
    """

    async def response(text: str) -> None:
        await evaluator.evaluate(text)

    async def request(text: str) -> None:
        await evaluator.evaluate(text, "request")

    async def part(text: str) -> None:
        await evaluator.evaluate(text[-590:], complete=False)

    for work in (response, request):
        await measure_latency(work, inputs[-4:])
    rows = [
        table_row("response of 256 tokens", await measure_latency(response, inputs[:size])),
        table_row("request of 256 tokens", await measure_latency(request, inputs[:size])),
        table_row("the same request again", await measure_latency(request, inputs[:size])),
        table_row(
            "request of 12 tokens",
            await measure_latency(request, [t[:50] for t in inputs[size : 2 * size]]),
        ),
        table_row(
            "part of a stream (512 characters of context)",
            await measure_latency(part, inputs[:size]),
        ),
        table_row(
            "response with a phone number",
            await measure_latency(
                response, [f"{t} Call +1 (212) 555-0187." for t in inputs[:size]]
            ),
        ),
    ]
    rows[4]["per_token_ms"] = round(rows[4]["p50_ms"] / STREAM_STRIDE_TOKENS, 3)
    return rows


async def measure(size: int) -> dict[str, Any]:
    """Start both scorer processes and measure them.

    Args:
        size: Texts per row.
    """
    settings = SafetySettings()
    policy = load_policy(settings.policy)
    fast, deep = (ScorerProcess(tier, settings.heads, 60) for tier in ("fast", "deep"))
    evaluator = PolicyEvaluator(fast, deep, lambda: policy)
    running = asyncio.create_task(evaluator.run())
    while not evaluator.is_ready:  # noqa: ASYNC110 - processes that start
        await asyncio.sleep(0.05)
    inputs = texts(6 * size + 4)

    async def response(text: str) -> None:
        await evaluator.evaluate(text)

    async def request(text: str) -> None:
        await evaluator.evaluate(text, "request")

    rows = await measure_rows(evaluator, inputs, size)
    rates = {
        "answers_per_s": round(await measure_throughput(response, inputs[2 * size : 4 * size]), 1),
        "requests_per_s": round(await measure_throughput(request, inputs[4 * size : 6 * size]), 1),
    }
    memory = {
        scorer.tier: round(psutil.Process(scorer.pid).memory_info().rss / 2**20)
        for scorer in (fast, deep)
        if scorer.pid
    }
    attacks = [one.text for one in sample_prompts(load_red_team("train"), 54)]
    refused = [not (await evaluator.evaluate(one, "request")).allowed for one in attacks]
    running.cancel()
    return {
        "rows": rows,
        "rates": rates,
        "memory_mib": memory,
        "attacks": {"total": len(attacks), "refused": sum(refused)},
        "rival": measure_rival(inputs[:size], attacks),
    }


def measure_rival(benign: Sequence[str], attacks: Sequence[str]) -> dict[str, Any] | None:
    """Return llm-guard's results on the same texts; None without its interpreter, GUARD_PYTHON."""
    python = os.environ.get("GUARD_PYTHON")
    if not python:
        return None
    results = []
    for scanned in (benign, attacks):
        job = {"warm": list(benign[:2]), "texts": list(scanned), "banned": LDNOOBW().substrings}
        completed = subprocess.run(
            [python, Path(__file__).with_name("guard_rival.py")],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(completed.stdout.splitlines()[-1]))
    on_benign, on_attacks = results
    return {
        **table_row(on_benign["name"], on_benign["seconds"]),
        "peak_mib": round(on_benign["peak_mib"]),
        "attacks_refused": on_attacks["refused"],
        "harmless_refused": on_benign["refused"],
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# Guard scoring benchmark", ""]
    lines += [
        "Policy evaluator with both scorer processes, without gRPC and Redis (their overhead is in",
        "[bench_overhead](bench_overhead.md)). Two shared cores.",
        "",
        "| input | n | p50 ms | p95 ms |",
        "| --- | --- | --- | --- |",
        *(f"| {r['what']} | {r['n']} | {r['p50_ms']} | {r['p95_ms']} |" for r in results["rows"]),
        "",
    ]
    token = results["rows"][4]["per_token_ms"]
    rates, memory, attacks = results["rates"], results["memory_mib"], results["attacks"]
    lines += [
        f"A stream is evaluated every {STREAM_STRIDE_TOKENS} tokens: {token} ms per token.",
        f"With 16 concurrent callers: {rates['answers_per_s']} responses/s and",
        f"{rates['requests_per_s']} new requests/s of 256 tokens.",
        f"Resident memory: fast {memory['fast']}, deep {memory['deep']} MiB.",
        f"{attacks['refused']} of {attacks['total']} held-out attacks refused.",
        "",
    ]
    if other := results["rival"]:
        lines += [
            f"{other['what']} (scanners without a model from a hub; garak's obscenities",
            f"are banned) on the same texts: p50 {other['p50_ms']}, p95 {other['p95_ms']} ms,",
            f"peak {other['peak_mib']} MiB; it refuses {other['attacks_refused']} of the attacks",
            f"and {other['harmless_refused']} of the benign texts.",
            "NeMo Guardrails 0.24 installs, but each of its rails calls or downloads a language",
            "model; so do llm-guard's scanners of toxicity and injection.",
            "",
        ]
    return "\n".join([*lines, "Made by `make bench-guard`."]) + "\n"


def main() -> None:
    """Measure and write ``results/bench_guard``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--size", type=int, default=40, help="texts per row")
    results = asyncio.run(measure(parser.parse_args().size))
    OUT.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
