"""Engines with the tiny model, and readers of their outputs."""

import queue
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, RequestHandle, Sampling
from bem.engine.engine import PREFIX_BYTES
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter

GREEDY = Sampling(temperature=0)
# The end tokens are banned: only the token limit ends it.
ENDLESS = Sampling(
    temperature=0, logit_bias=tuple((end, -100.0) for end in tiny_backbone().end_token_ids)
)
ADAPTERS = ("alpha", "beta", "gamma")


class DeltaReader:
    """Collects the output deltas of one request."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[OutputDelta | Exception] = queue.Queue()

    def deltas(self) -> list[OutputDelta]:
        """Return all deltas after the last one; raise the error that ended the request."""
        out = []
        while True:
            delta = self.arrived.get(timeout=60)
            if isinstance(delta, Exception):
                raise delta
            out.append(delta)
            if delta.finish:
                return out

    def text(self) -> str:
        """Return the complete text."""
        return "".join(delta.text for delta in self.deltas())


def make_engine(
    backbone: Backbone,
    folder: Path,
    *,
    rows: int = 4,
    waiting: int = 32,
    slots: int = 3,
    adapters: Sequence[str] = ("alpha", "beta"),
    prefix_bytes: int = PREFIX_BYTES,
    graphs: bool | None = None,
    kv_bytes: int | None = None,
) -> LLMEngine:
    """Return an engine with adapters of ``folder``; it is not started."""
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=slots, feature_layer=FEATURE_LAYER)
    for name in adapters:
        bank.load(folder / name)
    return LLMEngine(
        backbone,
        bank,
        max_sequences=rows,
        max_waiting=waiting,
        context_tokens=backbone.context_tokens,
        prefix_bytes=prefix_bytes,
        graphs=graphs,
        kv_bytes=kv_bytes,
    )


def write_adapters(folder: Path) -> Path:
    """Write the random adapters and return their folder."""
    for seed, name in enumerate(ADAPTERS):
        write_adapter(folder, tiny_backbone(), name, seed=seed)
    return folder


def submit(engine: LLMEngine, request: GenerationRequest) -> tuple[DeltaReader, RequestHandle]:
    """Submit a request."""
    reader = DeltaReader()
    return reader, engine.submit(request, reader.arrived.put)


def run_turns(engine: LLMEngine, count: int) -> None:
    """Run some turns of an engine that was not started, on this thread."""
    for _ in range(count):
        engine.turn()


def complete(engine: LLMEngine, request: GenerationRequest) -> str:
    """Complete one request on an engine that was not started; return its text."""
    reader, _ = submit(engine, request)
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    return reader.text()


@cache
def encode(text: str) -> tuple[int, ...]:
    """Encode a raw prompt."""
    return tuple(tiny_backbone().tokenizer.encode(text))
