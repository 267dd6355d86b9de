"""What a judgement costs: ``python -m benchmarks.guard``, on two shared cores, real processes."""

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
from bem_fleet.data.harmless import load_said
from bem_fleet.data.red_team import load_red_team, sample
from bem_fleet.guard.policy import load
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.settings import SafetySettings
from garak.detectors.unsafe_content import LDNOOBW

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results/bench_guard"
TOKENS = 256
# English words of this tokenizer's vocabulary have 1.3 tokens.
WORDS = int(TOKENS / 1.3)
STREAM_STRIDE_TOKENS = 4


def texts(count: int) -> list[str]:
    """Return harmless texts of 256 tokens, none twice."""
    words = " ".join(one.text for one in load_said("held_out")).split()
    return [" ".join(words[n * WORDS : (n + 1) * WORDS]) for n in range(count)]


async def timed(work: Callable[[str], Awaitable[object]], given: Sequence[str]) -> list[float]:
    """Return the seconds of each call, one after the other."""
    found = []
    for text in given:
        began = time.perf_counter()
        await work(text)
        found.append(time.perf_counter() - began)
    return found


async def throughput(work: Callable[[str], Awaitable[object]], given: Sequence[str]) -> float:
    """Return calls a second with 16 at a time."""
    waiting = iter(given)

    async def one() -> None:
        for text in waiting:
            await work(text)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(16)))
    return len(given) / (time.perf_counter() - began)


def row(name: str, seconds: Sequence[float], **more: float) -> dict[str, Any]:
    """Return one line of the table, in ms."""
    p50, p95 = (float(np.percentile(seconds, q) * 1e3) for q in (50, 95))
    return {
        "what": name,
        "n": len(seconds),
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
        **more,
    }


async def measure(size: int) -> dict[str, Any]:
    """Start both scorers and time them."""
    settings = SafetySettings()
    rules = load(settings.policy)
    judge = PolicyEvaluator(settings.scorer, 60, 60, lambda: rules)
    running = asyncio.create_task(judge.run())
    while not judge.alive:  # noqa: ASYNC110 - processes that start
        await asyncio.sleep(0.05)
    given = texts(6 * size + 4)

    async def answer(text: str) -> None:
        await judge.check(text)

    async def request(text: str) -> None:
        await judge.check(text, "request")

    async def piece(text: str) -> None:
        await judge.check(text[-590:], whole=False)

    for work in (answer, request):
        await timed(work, given[-4:])
    rows = [
        row("answer of 256 tokens", await timed(answer, given[:size])),
        row("request of 256 tokens", await timed(request, given[:size])),
        row("the same request again", await timed(request, given[:size])),
        row("request of 12 tokens", await timed(request, [t[:50] for t in given[size : 2 * size]])),
        row("piece of a stream (512 characters of context)", await timed(piece, given[:size])),
        row(
            "answer with a phone number",
            await timed(answer, [f"{t} Call +1 (212) 555-0187." for t in given[:size]]),
        ),
    ]
    rates = {
        "answers_per_s": round(await throughput(answer, given[2 * size : 4 * size]), 1),
        "requests_per_s": round(await throughput(request, given[4 * size : 6 * size]), 1),
    }
    rows[4]["per_token_ms"] = round(rows[4]["p50_ms"] / STREAM_STRIDE_TOKENS, 3)
    memory = {
        tier.tier: round(psutil.Process(tier.pid).memory_info().rss / 2**20)
        for tier in (judge.fast, judge.deep)
        if tier.pid
    }
    attacks = [one.text for one in sample(load_red_team(), "held_out", 54)]
    refused = [not (await judge.check(one, "request")).allowed for one in attacks]
    running.cancel()
    return {
        "rows": rows,
        "rates": rates,
        "memory_mib": memory,
        "attacks": {"asked": len(attacks), "refused": sum(refused)},
        "rival": rival(given[:size], attacks),
    }


def rival(given: Sequence[str], attacks: Sequence[str]) -> dict[str, Any] | None:
    """Return llm-guard's figures on the same texts and attacks; None without its interpreter."""
    python = os.environ.get("GUARD_PYTHON")
    if not python:
        return None
    found = []
    for asked in (given, attacks):
        question = {"warm": list(given[:2]), "texts": list(asked), "banned": LDNOOBW().substrings}
        done = subprocess.run(
            [python, Path(__file__).with_name("guard_rival.py")],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    calm, attacked = found
    return {
        **row(calm["name"], calm["seconds"]),
        "peak_mib": round(calm["peak_mib"]),
        "attacks_refused": attacked["refused"],
        "harmless_refused": calm["refused"],
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = ["# What a judgement costs", ""]
    lines += [
        "PolicyEvaluator with both scorer processes, as the sidecar runs it, without gRPC and Redis (those",
        "are in [bench_overhead](bench_overhead.md)). Two cores, shared.",
        "",
        "| what | n | p50 ms | p95 ms |",
        "| --- | --- | --- | --- |",
        *(f"| {r['what']} | {r['n']} | {r['p50_ms']} | {r['p95_ms']} |" for r in found["rows"]),
        "",
    ]
    token = found["rows"][4]["per_token_ms"]
    rates, memory = found["rates"], found["memory_mib"]
    lines += [
        f"A piece is judged every {STREAM_STRIDE_TOKENS} tokens: {token} ms a streamed token.",
        f"Sixteen at a time: {rates['answers_per_s']} answers/s and {rates['requests_per_s']} new",
        f"requests/s of 256 tokens. Resident: fast {memory['fast']}, deep {memory['deep']} MiB.",
        f"{found['attacks']['refused']} of {found['attacks']['asked']} held-out attacks refused.",
        "",
    ]
    if other := found["rival"]:
        lines += [
            f"{other['what']} (its scanners that need no model from a hub; banned are garak's",
            f"obscenities) on the same texts: p50 {other['p50_ms']}, p95 {other['p95_ms']} ms,",
            f"peak {other['peak_mib']} MiB; it refuses {other['attacks_refused']} of the attacks",
            f"and {other['harmless_refused']} of the harmless texts.",
            "NeMo Guardrails 0.24 installs, but each of its rails asks a language model or",
            "downloads one; so do llm-guard's scanners of toxicity and injection.",
            "",
        ]
    return "\n".join([*lines, "Made by `make bench-guard`."]) + "\n"


def main() -> None:
    """Measure and write ``results/bench_guard``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--size", type=int, default=40, help="texts a row")
    found = asyncio.run(measure(parser.parse_args().size))
    OUT.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
