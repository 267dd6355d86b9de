"""Long prompts among short answers, counted in steps."""

from pathlib import Path

import pytest
from bem.engine import GenerationRequest, LLMEngine
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import (
    ENDLESS,
    GREEDY,
    encoded,
    make,
    send,
    turns,
    write_adapters,
)

LONG = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def engine(folder: Path) -> LLMEngine:
    """An engine of ten rows whose context holds a long prompt."""
    return make(tiny_backbone(context_tokens=LONG + 600), folder, rows=10)


def long_prompt(adapter: str | None = None) -> GenerationRequest:
    """A request whose prompt has 2,048 tokens."""
    return GenerationRequest(encoded("w" * LONG), GREEDY, max_tokens=4, adapter=adapter)


@pytest.mark.parametrize("adapter", [None, "alpha"])
def test_long_prompt_stalls_nobody_for_more_than_two_steps(
    folder: Path, adapter: str | None
) -> None:
    """With 8 running, a token never waits for more than one piece beside its own step."""
    worker = engine(folder)
    for place in range(8):
        send(worker, GenerationRequest(encoded(f"tell {place}"), ENDLESS, max_tokens=500))
    turns(worker, 20)
    running = list(worker.core.scheduler.running)
    computed = worker.counters.prompt_tokens
    send(worker, long_prompt(adapter))
    while worker.counters.prompt_tokens - computed < LONG:
        place_tokens = [row.computed_tokens for row in running]
        passes = worker.counters.passes
        turns(worker, 1)

        assert [row.computed_tokens for row in running] == [place + 1 for place in place_tokens]
        assert worker.counters.passes - passes - 1 <= 2


def test_crowd_of_short_prompts_stalls_nobody_either(folder: Path) -> None:
    """However many prompts wait, a step waits for two forwards at most."""
    worker = engine(folder)
    send(worker, GenerationRequest(encoded("tell me"), ENDLESS, max_tokens=500))
    turns(worker, 4)
    for place in range(9):
        send(worker, GenerationRequest(encoded(f"{place}"), ENDLESS, max_tokens=40))
    while worker.counters.running < 10 or any(
        not row.is_decoding for row in worker.core.scheduler.running
    ):
        passes, steps = worker.counters.passes, worker.counters.steps
        turns(worker, 1)

        assert worker.counters.steps == steps + 1
        assert worker.counters.passes - passes - 1 <= 2


def test_short_prompts_that_arrive_together_are_read_together(folder: Path) -> None:
    """Ten prompts of like length, with adapters and without, pass each half in one forward."""
    worker = engine(folder)
    adapters = (None, "alpha", "beta")
    requests = [
        GenerationRequest(
            encoded(f"tell me {place} {'x' * place}"), ENDLESS, adapter=adapters[place % 3]
        )
        for place in range(10)
    ]
    for request in requests:
        send(worker, request)
    turns(worker, 1)

    assert worker.counters.passes - worker.counters.steps == 2
    assert worker.counters.prompt_tokens == sum(len(one.prompt_ids) for one in requests)


def test_short_prompt_overtakes_a_long_one_that_still_ends(folder: Path) -> None:
    """A short prompt behind a long one starts soon; short ones never keep the long one out."""
    worker = engine(folder)
    long, _ = send(worker, long_prompt())
    turns(worker, 1)
    short, _ = send(worker, GenerationRequest(encoded("hi"), GREEDY, max_tokens=1))
    turns(worker, 4)

    assert short.text()
    for _ in range(2 * 2 * LONG // worker.core.decoder.decode_chunk_tokens + 8):
        if not long.arrived.empty():
            break
        send(worker, GenerationRequest(encoded("hello"), GREEDY, max_tokens=1))
        turns(worker, 1)
    assert not long.arrived.empty()


def test_rows_are_computed_in_the_order_of_their_slots(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After rows left and joined, neighbours are read as one view and never scattered."""
    worker = engine(folder)
    seen: list[list[int]] = []
    span = worker.core.decoder.plan

    def noted(slots: list[int], starts: list[int], tokens: int) -> object:
        seen.append(slots)
        return span(slots, starts, tokens)

    monkeypatch.setattr(worker.core.decoder, "span", noted)
    for count in (3, 30, 30):
        send(worker, GenerationRequest(encoded("a"), ENDLESS, max_tokens=count))
    turns(worker, 12)
    send(worker, GenerationRequest(encoded("b"), ENDLESS, max_tokens=30))
    turns(worker, 6)

    assert [0, 1, 2] in seen[-4:]
    assert all(slots == sorted(slots) for slots in seen)


def test_cancelled_requests_give_their_places_back_at_once(folder: Path) -> None:
    """Whoever comes after somebody who left is accepted, before the engine's next turn too."""
    worker = make(tiny_backbone(), folder, rows=1, waiting=4)
    left = [send(worker, GenerationRequest(encoded("x"), GREEDY, max_tokens=2)) for _ in range(4)]
    for _, ticket in left:
        ticket.cancel()
    readers = [
        send(worker, GenerationRequest(encoded("y"), GREEDY, max_tokens=2))[0] for _ in range(3)
    ]
    turns(worker, 40)

    assert worker.counters.dropped == 4
    assert all(reader.arrived.qsize() for reader in readers)
