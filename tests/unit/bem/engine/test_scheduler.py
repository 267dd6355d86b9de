"""Tests of the scheduler: chunked prefill and fairness, counted in steps."""

from pathlib import Path

import pytest
from bem.engine import GenerationRequest, LLMEngine
from bem.engine.kv_budget import KVBudget
from bem.engine.prefill import PrefillBatch
from bem.engine.scheduler import Scheduler
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import (
    ENDLESS,
    GREEDY,
    encode,
    make_engine,
    run_turns,
    submit,
    write_adapters,
)
from tests.unit.bem.engine.sequences import make_sequence, prefill_lower

LONG = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def wide_engine(folder: Path) -> LLMEngine:
    """An engine of ten rows whose context holds a long prompt."""
    return make_engine(tiny_backbone(context_tokens=LONG + 600), folder, rows=10)


def long_prompt(adapter: str | None = None) -> GenerationRequest:
    """A request whose prompt has 2,048 tokens."""
    return GenerationRequest(encode("w" * LONG), GREEDY, max_tokens=4, adapter=adapter)


@pytest.mark.parametrize("adapter", [None, "alpha"])
def test_long_prompt_stalls_nobody_for_more_than_two_steps(
    folder: Path, adapter: str | None
) -> None:
    """With 8 running, a token never waits for more than one delta beside its own step."""
    engine = wide_engine(folder)
    for place in range(8):
        submit(engine, GenerationRequest(encode(f"tell {place}"), ENDLESS, max_tokens=500))
    run_turns(engine, 20)
    running = list(engine.core.scheduler.running)
    computed = engine.counters.prompt_tokens
    submit(engine, long_prompt(adapter))
    while engine.counters.prompt_tokens - computed < LONG:
        place_tokens = [row.computed_tokens for row in running]
        passes = engine.counters.passes
        run_turns(engine, 1)

        assert [row.computed_tokens for row in running] == [place + 1 for place in place_tokens]
        assert engine.counters.passes - passes - 1 <= 2


def test_crowd_of_short_prompts_stalls_nobody_either(folder: Path) -> None:
    """However many prompts wait, a step waits for two forwards at most."""
    engine = wide_engine(folder)
    submit(engine, GenerationRequest(encode("tell me"), ENDLESS, max_tokens=500))
    run_turns(engine, 4)
    for place in range(9):
        submit(engine, GenerationRequest(encode(f"{place}"), ENDLESS, max_tokens=40))
    while engine.counters.running < 10 or any(
        not row.is_decoding for row in engine.core.scheduler.running
    ):
        passes, steps = engine.counters.passes, engine.counters.steps
        run_turns(engine, 1)

        assert engine.counters.steps == steps + 1
        assert engine.counters.passes - passes - 1 <= 2


def test_short_prompts_that_arrive_together_are_read_together(folder: Path) -> None:
    """Ten prompts of like length, with adapters and without, pass each half in one forward."""
    engine = wide_engine(folder)
    adapters = (None, "alpha", "beta")
    requests = [
        GenerationRequest(
            encode(f"tell me {place} {'x' * place}"), ENDLESS, adapter=adapters[place % 3]
        )
        for place in range(10)
    ]
    for request in requests:
        submit(engine, request)
    run_turns(engine, 1)

    assert engine.counters.passes - engine.counters.steps == 2
    assert engine.counters.prompt_tokens == sum(len(one.prompt_ids) for one in requests)


def test_short_prompt_overtakes_a_long_one_that_still_ends(folder: Path) -> None:
    """A short prompt behind a long one starts soon; short ones never keep the long one out."""
    engine = wide_engine(folder)
    long, _ = submit(engine, long_prompt())
    run_turns(engine, 1)
    short, _ = submit(engine, GenerationRequest(encode("hi"), GREEDY, max_tokens=1))
    run_turns(engine, 4)

    assert short.text()
    for _ in range(2 * 2 * LONG // engine.core.decoder.decode_chunk_tokens + 8):
        if not long.arrived.empty():
            break
        submit(engine, GenerationRequest(encode("hello"), GREEDY, max_tokens=1))
        run_turns(engine, 1)
    assert not long.arrived.empty()


def test_rows_are_computed_in_the_order_of_their_slots(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After rows left and joined, neighbours are read as one view and never scattered."""
    engine = wide_engine(folder)
    seen: list[list[int]] = []
    span = engine.core.decoder.plan

    def noted(slots: list[int], starts: list[int], tokens: int) -> object:
        seen.append(slots)
        return span(slots, starts, tokens)

    monkeypatch.setattr(engine.core.decoder, "plan", noted)
    for count in (3, 30, 30):
        submit(engine, GenerationRequest(encode("a"), ENDLESS, max_tokens=count))
    run_turns(engine, 12)
    submit(engine, GenerationRequest(encode("b"), ENDLESS, max_tokens=30))
    run_turns(engine, 6)

    assert [0, 1, 2] in seen[-4:]
    assert all(slots == sorted(slots) for slots in seen)


def test_cancelled_requests_give_their_places_back_at_once(folder: Path) -> None:
    """A cancelled request frees its place in the queue before the engine's next turn."""
    engine = make_engine(tiny_backbone(), folder, rows=1, waiting=4)
    left = [submit(engine, GenerationRequest(encode("x"), GREEDY, max_tokens=2)) for _ in range(4)]
    for _, handle in left:
        handle.cancel()
    readers = [
        submit(engine, GenerationRequest(encode("y"), GREEDY, max_tokens=2))[0] for _ in range(3)
    ]
    run_turns(engine, 40)

    assert engine.counters.dropped == 4
    assert all(reader.arrived.qsize() for reader in readers)


def scheduler_of(*, slots: int = 4, budget: int = 64, held: KVBudget | None = None) -> Scheduler:
    """A scheduler without prefix cache."""
    return Scheduler(
        slots=slots,
        context_tokens=4096,
        decode_chunk_tokens=budget,
        load_cached_blocks=lambda _: None,
        caches_blocks=False,
        budget=held or KVBudget(None),
    )


def compute(batch: PrefillBatch) -> list[tuple[int, int, int, bool]]:
    """Advance the sequences of a batch; return slot, begin, end and half of each chunk."""
    for one in batch.chunks:
        if batch.upper:
            one.sequence.computed_tokens = one.end
        else:
            prefill_lower(one.sequence, one.tokens)
    return [(one.sequence.slot, one.begin, one.end, batch.upper) for one in batch.chunks]


def test_the_worked_example_of_the_module_holds() -> None:
    """Turns alternate between the oldest prompt and the one with the fewest tokens left."""
    held = KVBudget(None)
    scheduler = scheduler_of(held=held)
    decoding, a, b = (make_sequence(n, slot=slot) for slot, n in enumerate((1, 2048, 30)))
    decoding.lower_computed_tokens = decoding.computed_tokens = 1
    for sequence in (decoding, a, b):
        assert held.admit(sequence.handle, sequence.prompt_tokens, 4096)
        scheduler.add(sequence)
    steps = [[compute(batch) for batch in scheduler.prefill_batches()] for _ in range(4)]

    assert steps == [
        [[(1, 0, 64, False)]],
        [[(1, 64, 96, False), (2, 0, 30, False)]],
        [[(1, 96, 160, False)]],
        [[(2, 0, 30, True)], [(1, 160, 192, False)]],
    ]
    assert scheduler.decode_batch() == [decoding, b]


def test_a_crowd_of_prompts_is_soon_read() -> None:
    """Forty prompts decode together after few steps; two leave a running output its pace."""
    taken = {}
    for prompts in (2, 40):
        scheduler = scheduler_of(slots=prompts + 1, budget=20)
        decoding = make_sequence(1)
        decoding.lower_computed_tokens = decoding.computed_tokens = 1
        crowd = [make_sequence(16, slot=slot) for slot in range(1, prompts + 1)]
        for sequence in (decoding, *crowd):
            scheduler.add(sequence)
        steps: list[list[list[tuple[int, int, int, bool]]]] = []
        while any(not one.is_decoding for one in crowd):
            steps.append([compute(batch) for batch in scheduler.prefill_batches()])
        taken[prompts] = len(steps)

    assert taken[2] >= 2
    assert taken[40] <= 10


def test_late_chunks_of_a_long_prompt_are_shorter() -> None:
    """Attention over a long prompt costs more, so that its later chunks are half as long."""
    scheduler = scheduler_of()
    decoding, long = make_sequence(1), make_sequence(2048, slot=1)
    decoding.lower_computed_tokens = decoding.computed_tokens = 1
    prefill_lower(long, 1024)
    for sequence in (decoding, long):
        scheduler.add(sequence)

    assert [compute(batch) for batch in scheduler.prefill_batches()] == [[(1, 1024, 1056, False)]]


def test_the_lowest_free_slot_is_taken() -> None:
    """Slots that are freed are taken again before higher ones."""
    scheduler = scheduler_of(slots=3)
    sequences = [make_sequence(4, slot=scheduler.take_slot()) for _ in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert scheduler.free_slots == 0
    for sequence in (sequences[2], sequences[0]):
        scheduler.remove(sequence)

    assert (scheduler.free_slots, scheduler.take_slot(), scheduler.take_slot()) == (2, 0, 2)
