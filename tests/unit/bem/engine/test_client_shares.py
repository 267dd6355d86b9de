"""Client shares: slots, rows and places in the queue by client."""

import pytest
from bem.engine import GenerationRequest, LLMEngine, RequestHandle
from bem.engine.client_shares import ClientShares, StepTimes
from bem.errors import QueueFullError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import ENDLESS, encode, run_turns, submit
from tests.unit.bem.engine.sequences import make_sequence


def request_of(client: str, tokens: int = 300) -> GenerationRequest:
    """A request of a client that ends after a number of tokens only."""
    return GenerationRequest(encode("tell me"), ENDLESS, max_tokens=tokens, client=client)


def engine_of(*, rows: int = 4, waiting: int = 8, guests: int = 2) -> LLMEngine:
    """An engine that was not started; a step is taken to last as long as it has rows."""
    made = LLMEngine(
        tiny_backbone(), max_sequences=rows, max_waiting=waiting, guests=guests, context_tokens=512
    )
    times = made.core.scheduler.shares.times
    times.seconds = float  # type: ignore[method-assign,assignment]
    return made


def tokens_of(engine: LLMEngine) -> dict[str, list[int]]:
    """Return the tokens that each running request has computed, by client."""
    found: dict[str, list[int]] = {}
    for one in engine.core.scheduler.running:
        found.setdefault(one.handle.request.client, []).append(one.computed_tokens)
    return found


def test_one_client_with_many_requests_delays_another_by_nothing_in_steps() -> None:
    """The other's short answer takes a step for each token, though all rows were taken."""
    engine = engine_of(waiting=16)
    for _ in range(12):
        submit(engine, request_of("many"))
    run_turns(engine, 20)
    short, _ = submit(engine, request_of("one", tokens=10))
    steps = engine.counters.steps
    while short.arrived.empty() or not _ended(short):
        run_turns(engine, 1)

    assert engine.counters.steps - steps <= 10 + 2


def _ended(reader: object) -> bool:
    return any(delta.finish for delta in list(reader.arrived.queue))  # type: ignore[attr-defined]


def test_many_rows_are_slowed_and_not_stopped_by_another_client() -> None:
    """A step of all rows is due when the other's steps have earned its time."""
    engine = engine_of(guests=1)
    for _ in range(4):
        submit(engine, request_of("many"))
    submit(engine, request_of("one"))
    run_turns(engine, 6)
    before = tokens_of(engine)
    run_turns(engine, 39)
    after = tokens_of(engine)

    assert after["one"][0] - before["one"][0] == 39
    # Three more rows take three more units, which twelve steps of a quarter of a unit earn.
    assert [b - a for a, b in zip(before["many"], after["many"], strict=True)] == [3] * 3


def test_a_client_alone_has_all_rows_but_those_of_guests() -> None:
    """Nothing is divided as long as one client has requests."""
    engine = engine_of()
    for _ in range(8):
        submit(engine, request_of("many"))
    run_turns(engine, 10)

    (tokens,) = tokens_of(engine).values()
    assert len(tokens) == 4
    assert len(set(tokens)) == 1


def test_a_client_counts_for_half_a_second_after_its_request() -> None:
    """One that asks again at once meets short steps; then the other has all rows again."""
    now = [0.0]
    shares = ClientShares(1, lambda: now[0])
    shares.times.observe(1, 1.0)
    sequences = {name: make_sequence(4) for name in ("a", "b", "c")}
    for name, sequence in sequences.items():
        client = "one" if name == "c" else "many"
        sequence.handle = RequestHandle(request_of(client), lambda _: None)
    many, one = [sequences["a"], sequences["b"]], sequences["c"]
    sizes = [len(shares.rows([*many, one], [*many, one]))]
    for now[0] in (0.1, 0.4, 0.6):
        sizes.append(len(shares.rows(many, many)))

    assert sizes == [1, 1, 1, 2]


def test_nobody_lingers_while_requests_wait() -> None:
    """Steps have all rows of those present as soon as there are more requests than slots."""
    shares = ClientShares(1, lambda: 0.0)
    many, one = make_sequence(4), make_sequence(4)
    many.handle = RequestHandle(request_of("many"), lambda _: None)
    one.handle = RequestHandle(request_of("one"), lambda _: None)
    shares.rows([one], [one])
    sizes = []
    for waiting in ([RequestHandle(request_of("many"), lambda _: None)], []):
        shares.next_waiting(waiting, [many, many], free_slots=0)
        sizes.append(len(shares.rows([many, many], [many, many])))
        shares.rows([one], [one])

    assert sizes == [2, 1]


@pytest.mark.parametrize("clients", [["a", "b"], ["b", "a"]])
def test_the_next_slot_is_for_the_client_with_fewest(clients: list[str]) -> None:
    """Whoever was first in the queue."""
    shares = ClientShares(guests=0)
    running = [make_sequence(4)]
    running[0].handle = RequestHandle(request_of("a"), lambda _: None)
    waiting = [RequestHandle(request_of(client), lambda _: None) for client in clients]
    chosen = shares.next_waiting(waiting, running, free_slots=1)

    assert chosen is not None
    assert chosen.request.client == "b"


def test_a_full_queue_has_places_for_other_clients() -> None:
    """One each: a guest that waits already is refused as well."""
    engine = engine_of(rows=1, waiting=2, guests=2)
    for _ in range(2):
        submit(engine, request_of("many"))
    with pytest.raises(QueueFullError):
        submit(engine, request_of("many"))
    submit(engine, request_of("one"))
    with pytest.raises(QueueFullError):
        submit(engine, request_of("one"))
    submit(engine, request_of("other"))
    with pytest.raises(QueueFullError):
        submit(engine, request_of("another"))


@pytest.mark.parametrize(
    ("times", "full"),
    [
        ({1: 0.1, 16: 0.1}, 60),  # rows cost nothing: a GPU
        ({1: 0.2, 16: 0.1}, 60),  # noise
        ({1: 0.1, 16: 0.6}, 2),  # a CPU: twenty steps earn the time of one with all rows
        ({}, 60),
    ],
)
def test_a_step_of_all_rows_comes_as_often_as_its_time_is_earned(
    times: dict[int, float], full: int
) -> None:
    """By the times of past steps."""
    shares = ClientShares(1, lambda: 0.0)
    for size, seconds in times.items():
        for _ in range(3):
            shares.times.observe(size, seconds)
    sequences = [make_sequence(4, slot=slot) for slot in range(17)]
    for slot, sequence in enumerate(sequences):
        sequence.handle = RequestHandle(request_of("many" if slot else "one"), lambda _: None)
    steps = [shares.rows(sequences, sequences) for _ in range(60)]

    assert sum(len(step) == 17 for step in steps) == full
    assert all(sequences[0] in step for step in steps)


def test_an_unknown_size_costs_its_share_of_the_nearest() -> None:
    """And no rows cost nothing."""
    times = StepTimes()
    assert times.seconds(3) == 0
    times.observe(16, 0.8)

    assert times.seconds(2) == pytest.approx(0.1)
    assert times.seconds(0) == 0
