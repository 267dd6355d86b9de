"""Stateful fuzz test of the engine: no leaks, no starvation, and outputs equal to those alone."""

import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bem.backbone import Backbone, WeightFormat
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, RequestHandle, Sampling, Segment
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.errors import DeadlineExceededError, QueueFullError
from bem.testing import tiny_backbone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.bem.engine.engines import (
    ADAPTERS,
    DeltaReader,
    complete,
    encode,
    make_engine,
    write_adapters,
)
from tests.unit.bem.engine.native.kernels import packed

ROWS, SLOTS, QUEUE = 3, 2, 6
SHARED = "A system prompt that many share, long enough to fill blocks of the cache. " * 2
# Turns in which the largest request ends although all rows compete: its deltas at every second
# turn and its tokens, once for each that may stand before it.
PATIENCE = (2 * 2 * 8 + 40) * (QUEUE + ROWS)


@cache
def folder() -> Path:
    """Adapters on disk."""
    return write_adapters(Path(mkdtemp(prefix="fuzz-")))


def model(kind: WeightFormat) -> Backbone:
    """The tiny model, quantised by compiled kernels alone: torch's depend on the number of rows."""
    return tiny_backbone() if kind == "fp32" else packed(kind)


@cache
def solo(kind: WeightFormat, request: GenerationRequest) -> str:
    """Return the answer of a request that is alone in an engine without a prefix cache."""
    return complete(alone(kind), request)


@cache
def alone(kind: WeightFormat) -> LLMEngine:
    """An engine for one request at a time."""
    return make_engine(model(kind), folder(), rows=1, adapters=ADAPTERS, prefix_bytes=0)


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    """Requests of all kinds: shared prefixes, adapters, switches, sampling."""
    text = draw(st.sampled_from(("", SHARED[:70], SHARED))) + draw(st.text("ab", max_size=60)) + "?"
    ids = encode(text)
    adapter = draw(st.sampled_from((None, *ADAPTERS)))
    adapter_start = draw(st.sampled_from((0, 0, len(ids) // 2)))
    earlier_segments: tuple[Segment, ...] = ()
    if adapter_start and draw(st.booleans()):
        earlier_segments = (
            Segment(0, max(1, adapter_start // 2), draw(st.sampled_from(ADAPTERS))),
        )
    greedy = draw(st.booleans())
    return GenerationRequest(
        prompt_ids=ids,
        sampling=Sampling(temperature=0) if greedy else Sampling(seed=draw(st.integers(0, 3))),
        max_tokens=draw(st.integers(1, 24)),
        adapter=adapter,
        adapter_scale=draw(st.sampled_from((1.0, 1.0, 0.5, 0.0))),
        adapter_start=adapter_start,
        earlier_segments=earlier_segments,
    )


class Traffic(RuleBasedStateMachine):
    """Random traffic on an engine, turn by turn."""

    kind: WeightFormat = "fp32"

    def __init__(self) -> None:
        super().__init__()
        # Room for a few blocks only, so that they come and go.
        block = 2 * 4 * 2 * BLOCK_TOKENS * 8 * 4
        self.engine = make_engine(
            model(self.kind),
            folder(),
            rows=ROWS,
            waiting=QUEUE,
            slots=SLOTS,
            adapters=ADAPTERS,
            prefix_bytes=6 * block,
        )
        self.flying: list[tuple[GenerationRequest, DeltaReader, RequestHandle, int]] = []
        self.age = 0

    @rule(request=requests())
    def arrive(self, request: GenerationRequest) -> None:
        """A request arrives; it is refused if the queue is full."""
        self._submit(request)

    @rule(request=requests(), wait_s=st.sampled_from((-1.0, 0.0)))
    def arrive_late(self, request: GenerationRequest, wait_s: float) -> None:
        """A request arrives whose deadline passes before the next turn."""
        changed = {**vars(request), "deadline": time.monotonic() + wait_s}
        self._submit(GenerationRequest(**changed))

    @precondition(lambda self: bool(self.flying))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A client cancels."""
        place = data.draw(st.integers(0, len(self.flying) - 1))
        self.flying.pop(place)[2].cancel()

    @rule(count=st.integers(1, 12))
    def go_on(self, count: int) -> None:
        """The engine runs some turns."""
        for _ in range(count):
            self._turn()

    @invariant()
    def nothing_leaks(self) -> None:
        """Slots, leases and memory belong to running sequences only."""
        core = self.engine.core
        scheduler, bank, cache = core.scheduler, core.binding.bank, core.prefix_cache
        slots = sorted([one.slot for one in scheduler.running] + scheduler._free_slots)
        leased = sum(
            one.adapter is not None for sequence in scheduler.running for one in sequence.segments
        )
        assert slots == list(range(ROWS))
        assert bank is not None
        assert bank.leases() == leased
        assert bank.row_codes.slots is None or int(bank.row_codes.slots.max()) < SLOTS
        assert cache.bytes <= cache.limit_bytes
        stored = sum(t.nbytes for block in cache._blocks.values() for t in block)
        assert stored == cache.bytes

    def teardown(self) -> None:
        """All remaining requests are answered; then the engine is empty."""
        while self.flying:
            self._turn()
        self._turn()
        core = self.engine.core
        assert not core.scheduler.running
        assert core.scheduler.free_slots == ROWS
        assert core.binding.bank is not None
        assert core.binding.bank.leases() == 0
        assert self.engine.counters.waiting == 0

    def _submit(self, request: GenerationRequest) -> None:
        reader = DeltaReader()
        try:
            handle = self.engine.submit(request, reader.arrived.put)
        except QueueFullError:
            assert self.engine.counters.waiting == QUEUE
            return
        self.flying.append((request, reader, handle, self.age))

    def _turn(self) -> None:
        self.engine.turn()
        self.age += 1
        left = []
        for flying in self.flying:
            request, reader, _, born = flying
            if ended := _ended(reader):
                _check(self.kind, request, ended)
            else:
                assert self.age - born <= PATIENCE, "a request starves"
                left.append(flying)
        self.flying = left


def _ended(reader: DeltaReader) -> list[Any]:
    """Return the outputs of a request that has ended, else nothing."""
    got = list(reader.arrived.queue)
    return got if got and (isinstance(got[-1], Exception) or got[-1].finish) else []


def _check(kind: WeightFormat, request: GenerationRequest, got: list[Any]) -> None:
    """Compare with the output alone; only a request with a deadline may miss it."""
    if isinstance(got[-1], Exception):
        assert isinstance(got[-1], DeadlineExceededError)
        assert request.deadline is not None
        return
    deltas: list[OutputDelta] = got
    assert "".join(delta.text for delta in deltas) == solo(kind, request)
    assert deltas[-1].completion_tokens <= request.max_tokens


class CompiledTraffic(Traffic):
    """The same through compiled kernels."""

    kind: WeightFormat = "int4"


Traffic.TestCase.settings = CompiledTraffic.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestTraffic = Traffic.TestCase
TestCompiledTraffic = CompiledTraffic.TestCase
