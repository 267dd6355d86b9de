"""Limits of the queue, on engines that were not started."""

import math

import pytest
from bem.engine import GenerationRequest, LLMEngine
from bem.engine.queue_limits import without_cancelled
from bem.errors import QueueFullError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import ENDLESS, encode, run_turns, submit


def request_of(client: str, *, yields: bool = False) -> GenerationRequest:
    """A request of a client that does not end by itself."""
    return GenerationRequest(
        encode("tell me"), ENDLESS, max_tokens=300, client=client, yields=yields
    )


def engine_of(*, rows: int, waiting: int, max_wait_s: float = math.inf) -> LLMEngine:
    """An engine whose requests took two seconds so far."""
    made = LLMEngine(
        tiny_backbone(),
        max_sequences=rows,
        max_waiting=waiting,
        max_wait_s=max_wait_s,
        context_tokens=512,
    )
    made.core.mean_request_s = 2.0
    return made


def admitted(engine: LLMEngine, client: str, count: int) -> int:
    """Submit requests of a client; return how many may wait."""
    taken = 0
    for _ in range(count):
        try:
            submit(engine, request_of(client))
        except QueueFullError:
            continue
        taken += 1
    return taken


def test_a_wait_beyond_the_limit_is_refused_though_there_are_places() -> None:
    """Three requests of two seconds are ahead of the fourth, which would wait for six."""
    engine = engine_of(rows=1, waiting=64, max_wait_s=5.0)

    assert admitted(engine, "one", 9) == 3


def test_requests_that_find_free_slots_do_not_wait() -> None:
    """Of a burst on an idle engine each slot takes one, however long requests last."""
    engine = engine_of(rows=4, waiting=64, max_wait_s=0.1)

    assert admitted(engine, "one", 9) == 4


def test_the_wait_is_that_of_the_clients_turn() -> None:
    """Clients are served in turn, so another one's queue is ahead by as much as the own."""
    engine = engine_of(rows=1, waiting=64, max_wait_s=9.0)
    before = admitted(engine, "many", 9)

    assert (before, admitted(engine, "one", 9)) == (5, 2)


def test_a_client_with_many_requests_leaves_places_to_the_others() -> None:
    """With two clients one may fill half of the queue: of the other's burst nothing is refused."""
    engine = engine_of(rows=1, waiting=16)
    admitted(engine, "one", 1)
    many = admitted(engine, "many", 30)

    assert many == 8
    assert admitted(engine, "one", 6) == 6


def test_places_return_to_a_client_that_is_alone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds after another one's last request all places are its own."""
    engine, now = engine_of(rows=1, waiting=16), [0.0]
    monkeypatch.setattr(engine.core.scheduler.shares, "_clock", lambda: now[0])
    admitted(engine, "one", 1)
    now[0] = 10.0

    assert admitted(engine, "many", 30) == 15


def test_a_yielding_request_needs_a_free_slot_at_once() -> None:
    """It joins an idle engine, and neither a queue nor an engine whose slots are taken."""
    engine = engine_of(rows=2, waiting=16)
    submit(engine, request_of("one", yields=True))
    with pytest.raises(QueueFullError):
        submit(engine, request_of("one", yields=True))
    submit(engine, request_of("one"))
    run_turns(engine, 1)

    assert (engine.counters.running, engine.counters.waiting) == (2, 0)
    with pytest.raises(QueueFullError):
        submit(engine, request_of("one", yields=True))


def test_a_yielding_request_gives_its_slot_to_one_that_waits() -> None:
    """It ends with the error of a full queue, and the other runs in the next step."""
    engine = engine_of(rows=1, waiting=16)
    mirrored, _ = submit(engine, request_of("one", yields=True))
    run_turns(engine, 2)
    submit(engine, request_of("two"))
    run_turns(engine, 2)

    assert [one.handle.request.client for one in engine.core.scheduler.running] == ["two"]
    with pytest.raises(QueueFullError):
        mirrored.deltas()


def test_a_cancelled_request_leaves_the_queue_unless_it_is_in_admission() -> None:
    """The first one stays: the engine's thread may be reading it."""
    engine = engine_of(rows=1, waiting=16)
    handles = [submit(engine, request_of("one"))[1] for _ in range(3)]
    for handle in handles[:2]:
        handle.cancel()

    assert list(without_cancelled(handles)) == [handles[0], handles[2]]
