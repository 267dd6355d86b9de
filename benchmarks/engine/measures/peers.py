"""Whole requests beside other engines on this machine: ``make bench-engine PEERS="all"``.

All sides get the same prompts of token ids, lengths and threads, in turn; while one runs, the
others stand still. A ratio is to the best peer of its cell. Quality is the perplexity of each on
one text.
"""

import math
import os
from collections.abc import Callable
from contextlib import ExitStack

import torch
from bem.backbone import Backbone, load_backbone
from bem.engine import LLMEngine

from benchmarks.engine.engine_fixture import CACHE, DecodeLoop, load, text_ids
from benchmarks.engine.measurement import (
    Measurement,
    Rates,
    Target,
    alternating_rates,
    medians,
    not_measured,
)
from benchmarks.engine.measures.perplexity import WINDOW, nats_per_token
from benchmarks.engine.peers.catalogue import LLAMA_CPP, chosen
from benchmarks.engine.peers.peer_process import PeerProcess, running
from benchmarks.engine.timed_engine import TimedEngine, rate_of_requests

CELLS = {
    "1 request": (1, 16, 48),
    "16 requests": (16, 16, 48),
    "64 requests": (64, 16, 48),
    "128 requests": (128, 16, 48),
    "256 requests": (256, 16, 48),
    "prompt of 512": (1, 512, 1),
    "prompt of 2,048": (1, 2048, 1),
}
"""Requests at once, prompt tokens and new tokens of each cell."""
_BARS = (1.5, 2.0, 1.5, 1.5, 1.5, 1.3, 1.3)
TARGETS = {f"{cell} / best peer": Target(bar) for cell, bar in zip(CELLS, _BARS, strict=True)}
WARM_UP = ("1 request", "16 requests", "prompt of 512")
"""Cells that run once before they count; the longer ones find everything warm."""
OURS = "ours"
SCORED_TOKENS = 8192


def run(rounds: int) -> Measurement:
    """Measure each cell in turn with the peers that ``PEERS`` names; none by default."""
    peers = chosen(os.environ.get("PEERS", ""))
    if not peers:
        return not_measured(TARGETS, 'PEERS is empty; "all", or names of the catalogue')
    result = Measurement()
    threads = torch.get_num_threads()
    backbone = load()
    kernels = backbone.kernels.path.name if backbone.kernels else "torch"
    result.figures |= {"weights": backbone.weight_format, "kernels": kernels}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(running(peer, threads)) for name, peer in peers.items()
        }
        engine = LLMEngine(
            backbone, max_sequences=256, max_waiting=256, context_tokens=2304, prefix_bytes=0
        )
        engine.start()
        stack.callback(engine.close, drain=False)
        rates = _rates(TimedEngine(engine), processes, rounds)
        text = _windows(backbone)
        perplexity = {name: _perplexity(one, text) for name, one in processes.items()}
    loop = DecodeLoop(load(), None, rows=1, context=WINDOW)
    perplexity[OURS] = math.exp(nats_per_token(loop, text))
    result.figures |= {
        "tokens/s": {cell: medians(found) for cell, found in rates.items()},
        "perplexity": {name: round(value, 3) for name, value in perplexity.items()},
    }
    result.ratios = {f"{cell} / best peer": _to_best(found) for cell, found in rates.items()}
    result.notes = [
        "prompts of 16 tokens and 48 new ones; of prompts alone, prompt tokens per second",
        "llama.cpp's perplexity is that of its file's weights in float32: its server scores none",
    ]
    return result


def _rates(engine: TimedEngine, processes: dict[str, PeerProcess], rounds: int) -> dict[str, Rates]:
    """Return the rates of each cell.

    A peer that is less than half as fast as the best is left out of cells of more requests.
    """
    found: dict[str, Rates] = {}
    behind: set[str] = set()
    for cell, (rows, _, _) in CELLS.items():
        taking_part = {n: one for n, one in processes.items() if rows == 1 or n not in behind}
        sides = _sides(engine, taking_part, cell)
        found[cell] = alternating_rates(sides, rounds, warm_up=cell in WARM_UP)
        if rows > 1:
            middle = medians(found[cell])
            best = max(middle[name] for name in taking_part)
            behind |= {name for name in taking_part if middle[name] < best / 2}
    return found


def _sides(
    engine: TimedEngine, processes: dict[str, PeerProcess], cell: str
) -> dict[str, Callable[[], float]]:
    """Return what is compared in a cell, by name."""
    rows, prompt, new = CELLS[cell]

    sides: dict[str, Callable[[], float]] = {
        OURS: lambda: rate_of_requests(engine, rows, prompt, new)
    }
    for name, process in processes.items():
        sides[name] = lambda process=process: process.rate(rows, prompt, new)  # type: ignore[misc]
    return sides


def _to_best(rates: Rates) -> float:
    """Return our median rate over that of the best peer."""
    found = medians(rates)
    return round(found[OURS] / max(rate for name, rate in found.items() if name != OURS), 3)


def _windows(backbone: Backbone) -> torch.Tensor:
    """Return windows ``[N, WINDOW]`` of the text that all sides score."""
    ids = text_ids(backbone.tokenizer, SCORED_TOKENS)
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def _perplexity(process: PeerProcess, windows: torch.Tensor) -> float:
    """Return the perplexity of a peer, of llama.cpp that of its weights."""
    if process.peer.environment is LLAMA_CPP:
        weights = load_backbone(str(process.peer.model), cache=CACHE)
        loop = DecodeLoop(weights, None, rows=1, context=WINDOW)
        return math.exp(nats_per_token(loop, windows))
    nats = process.nats(windows.tolist())
    return math.nan if nats is None else math.exp(nats)
