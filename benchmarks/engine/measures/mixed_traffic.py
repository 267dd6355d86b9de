"""Requests of many lengths that arrive at random, beside other engines: first and later tokens.

Lengths are log-normal, as those of shared chats are, and arrivals are Poisson; a seed makes both.
All sides get the same requests at the same times, at 70 % of the rate that the best peer sustains.
Peers that sustain less than that rate would only queue; they are left out of the comparison.
"""

import math
import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise

import torch
from bem.engine import LLMEngine

from benchmarks.engine.engine_fixture import load
from benchmarks.engine.measurement import (
    Measurement,
    Target,
    median,
    not_measured,
    percentile,
)
from benchmarks.engine.peers.catalogue import chosen
from benchmarks.engine.peers.peer_process import running
from benchmarks.engine.peers.sides.commands import Arrival, by_threads
from benchmarks.engine.timed_engine import TimedEngine

LATENCIES = ("p95 first token", "p95 between tokens")
TARGETS = {f"{name} / best peer": Target(0.7, at_most=True) for name in LATENCIES}
REQUESTS, SHARE, CONTEXT = 96, 0.7, 2304
PROMPTS, OUTPUTS = (120, 0.9, 8, 1024), (80, 0.8, 4, 384)
"""Median, sigma of the logarithm, smallest and largest number of tokens."""
Trace = Callable[[Sequence[Arrival]], list[list[float]]]
"""Runs requests as they arrive and returns the times of their tokens."""


def lengths() -> list[tuple[int, int]]:
    """Return prompt and new tokens of each request."""
    draw = random.Random(0)

    def tokens(middle: int, sigma: float, least: int, most: int) -> int:
        return min(most, max(least, round(draw.lognormvariate(math.log(middle), sigma))))

    return [(tokens(*PROMPTS), tokens(*OUTPUTS)) for _ in range(REQUESTS)]


def arrivals(rate: float) -> list[Arrival]:
    """Return the requests at a rate per second; infinity: all at once."""
    draw = random.Random(1)
    times = accumulate(draw.expovariate(1) / rate for _ in range(REQUESTS))
    return [(at, *one) for at, one in zip(times, lengths(), strict=True)]


def tail_latencies(requests: Sequence[Arrival], times: Sequence[Sequence[float]]) -> list[float]:
    """Return the 95th percentiles of first tokens and of gaps between tokens, in seconds."""
    first = [found[0] - at for (at, _, _), found in zip(requests, times, strict=True)]
    gaps = [later - earlier for found in times for earlier, later in pairwise(found)]
    return [percentile(first, 0.95), percentile(gaps, 0.95)]


def run(rounds: int) -> Measurement:
    """Measure the peers that ``PEERS`` names in turn with ours; none by default."""
    peers = chosen(os.environ.get("PEERS", ""))
    if not peers:
        return not_measured(TARGETS, "PEERS is empty")
    result = Measurement()
    with ExitStack() as stack:
        threads = torch.get_num_threads()
        traces: dict[str, Trace] = {"ours": _started(stack)}
        for name, peer in peers.items():
            traces[name] = stack.enter_context(running(peer, threads)).trace
        sustained = {name: _sustained(trace) for name, trace in traces.items()}
        best = max(rate for name, rate in sustained.items() if name != "ours")
        requests = arrivals(SHARE * best)
        found = {
            name: [tail_latencies(requests, trace(requests)) for _ in range(rounds)]
            for name, trace in traces.items()
            if sustained[name] >= SHARE * best
        }
    tails = {
        name: [median(column) for column in zip(*one, strict=True)] for name, one in found.items()
    }
    result.figures = {
        "requests/s when all arrive at once": {n: round(r, 2) for n, r in sustained.items()},
        "requests/s that arrive": round(SHARE * best, 2),
    }
    for place, name in enumerate(LATENCIES):
        result.figures[f"{name}, ms"] = {n: round(1e3 * one[place], 1) for n, one in tails.items()}
        least = min(one[place] for side, one in tails.items() if side != "ours")
        result.ratios[f"{name} / best peer"] = round(tails["ours"][place] / least, 3)
    prompt, new = map(sum, zip(*lengths(), strict=True))
    result.notes = [
        f"{REQUESTS} requests, {prompt} prompt and {new} new tokens in all; no prefix is shared"
    ]
    return result


def _started(stack: ExitStack) -> Trace:
    """Start our engine until the stack ends, and return what runs requests on it."""
    engine = LLMEngine(
        load(), max_sequences=256, max_waiting=256, context_tokens=CONTEXT, prefix_bytes=0
    )
    engine.start()
    stack.callback(engine.close, drain=False)
    timed = TimedEngine(engine)

    def token_times(prompt: list[int], tokens: int) -> list[float]:
        return timed.submit(prompt, tokens).wait().token_times

    return lambda requests: by_threads(requests, token_times)


def _sustained(trace: Trace) -> float:
    """Return the requests per second of a side when all arrive at once."""
    return REQUESTS / max(found[-1] for found in trace(arrivals(math.inf)))
