"""The engine: what a request gets does not depend on who else is there."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.backbone import Backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.errors import (
    AdapterNotFoundError,
    DeadlineExceededError,
    EngineClosedError,
    QueueFullError,
)
from bem.testing import tiny_backbone

from tests.support.random_adapters import write_adapter
from tests.unit.bem.engine.engines import GREEDY, encoded, make, send, write_adapters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def backbone() -> Backbone:
    """A fresh tiny model."""
    return tiny_backbone()


@pytest.fixture
def worker(backbone: Backbone, folder: Path) -> Iterator[LLMEngine]:
    """A running engine with two adapters."""
    made = make(backbone, folder)
    made.start()
    yield made
    made.close(drain=False)


def requests() -> list[GenerationRequest]:
    """Requests that differ in everything."""
    mixed = []
    for index, adapter in enumerate((None, "alpha", "beta", "alpha", None, "beta")):
        sampling = GREEDY if index % 3 else Sampling(temperature=0.9, top_p=0.9, seed=index)
        text = "once upon a time " * (1 + 3 * index) + str(index)
        mixed.append(
            GenerationRequest(encoded(text), sampling, max_tokens=20 + 15 * index, adapter=adapter)
        )
    return mixed


def reference(backbone: Backbone, ids: tuple[int, ...], count: int) -> str:
    """Return transformers' own greedy answer."""
    out = backbone.model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    answer: str = backbone.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    return answer


def test_base_model_answers_as_transformers_does(worker: LLMEngine) -> None:
    """Greedy text of the engine is that of generate() on the untouched model."""
    ids = encoded("hello there, " * 30)
    reader, _ = send(worker, GenerationRequest(ids, GREEDY, max_tokens=40))

    assert reader.text() == reference(tiny_backbone(), ids, 40)


def test_answer_alone_equals_answer_in_a_batch(worker: LLMEngine) -> None:
    """Adapters, lengths and sampling of other rows never change a request's text."""
    alone = [send(worker, request)[0].text() for request in requests()]
    readers = [send(worker, request)[0] for request in requests()]

    assert [reader.text() for reader in readers] == alone
    assert len(set(alone)) == len(alone)


def test_adapter_changes_the_answer_and_scale_zero_does_not(worker: LLMEngine) -> None:
    """An adapter at scale 0 is the base model exactly."""
    base = GenerationRequest(encoded("tell me"), GREEDY, max_tokens=30)
    texts = [
        send(worker, request)[0].text()
        for request in (
            base,
            replace(base, adapter="alpha"),
            replace(base, adapter="alpha", adapter_scale=0.0),
        )
    ]

    assert texts[0] == texts[2] != texts[1]


def test_code_moves_at_chunk_borders_without_touching_other_rows(worker: LLMEngine) -> None:
    """Answers longer than several chunks stay independent of the batch."""
    long = GenerationRequest(encoded("a long one"), GREEDY, max_tokens=200, adapter="beta")
    alone = send(worker, long)[0].text()
    readers = [
        send(worker, replace(long, adapter=adapter))[0] for adapter in ("beta", "alpha", None)
    ]

    assert readers[0].text() == alone
    assert len({alone, readers[1].text(), readers[2].text()}) == 3


def test_same_seed_gives_the_same_text(worker: LLMEngine) -> None:
    """Sampling is reproducible by seed, and differs without one."""
    seeded = GenerationRequest(encoded("x"), Sampling(seed=7), max_tokens=40)
    free = replace(seeded, sampling=Sampling())

    first, second = (send(worker, seeded)[0].text() for _ in range(2))
    third, fourth = (send(worker, free)[0].text() for _ in range(2))
    assert first == second
    assert third != fourth


def test_stop_text_ends_the_answer_before_it(worker: LLMEngine) -> None:
    """Neither the stop text nor what follows is part of the answer."""
    base = GenerationRequest(encoded("stop test"), GREEDY, max_tokens=60)
    whole = send(worker, base)[0].text()
    stop = whole[10:13]
    pieces = send(worker, replace(base, stop=(stop,)))[0].pieces()

    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_max_tokens_are_counted(worker: LLMEngine) -> None:
    """The last piece tells how many tokens were generated and why it ended."""
    last = send(worker, GenerationRequest(encoded("count"), GREEDY, max_tokens=9))[0].pieces()[-1]

    assert (last.completion_tokens, last.finish) == (9, "length")


def test_cancelled_request_frees_its_row(backbone: Backbone, folder: Path) -> None:
    """With one row, the next request runs as soon as the first is cancelled."""
    worker = make(backbone, folder, rows=1)
    worker.start()
    reader, ticket = send(worker, GenerationRequest(encoded("long"), GREEDY, max_tokens=500))
    reader.arrived.get(timeout=60)
    second, _ = send(worker, GenerationRequest(encoded("next"), GREEDY, max_tokens=3))
    ticket.cancel()

    assert second.pieces()[-1].completion_tokens == 3
    assert worker.counters.dropped == 1
    worker.close(drain=True)


def test_late_request_ends_with_its_deadline(worker: LLMEngine) -> None:
    """A request past its deadline is told so."""
    late = GenerationRequest(encoded("x"), GREEDY, max_tokens=400, deadline=time.monotonic())

    with pytest.raises(DeadlineExceededError):
        send(worker, late)[0].pieces()


def test_full_queue_refuses_with_a_delay(backbone: Backbone, folder: Path) -> None:
    """A request beyond the bound is refused at once and told when to come back."""
    worker = make(backbone, folder, rows=1, waiting=2)  # not started: nothing leaves the queue
    for _ in range(2):
        send(worker, GenerationRequest(encoded("x")))
    with pytest.raises(QueueFullError) as caught:
        send(worker, GenerationRequest(encoded("x")))

    assert 0.5 <= caught.value.retry_after_s <= 60


def test_unknown_adapter_is_named(worker: LLMEngine) -> None:
    """The error lists what is loaded."""
    with pytest.raises(AdapterNotFoundError, match="alpha, beta"):
        send(worker, GenerationRequest(encoded("x"), adapter="gamma"))[0].pieces()


def test_reload_leaves_running_requests_on_their_version(
    worker: LLMEngine, tmp_path: Path, backbone: Backbone
) -> None:
    """A request keeps the version it began with while its name gets another."""
    request = GenerationRequest(encoded("version"), GREEDY, max_tokens=150, adapter="alpha")
    before = send(worker, request)[0].text()
    write_adapter(tmp_path, backbone, "alpha", seed=99)
    reader, _ = send(worker, request)
    first = reader.arrived.get(timeout=60)
    assert isinstance(first, OutputDelta)
    worker.load_adapter(tmp_path / "alpha").result(timeout=60)

    assert first.text + reader.text() == before
    assert send(worker, request)[0].text() != before
    with pytest.raises(AdapterNotFoundError):
        worker.unload_adapter("nobody").result(timeout=60)


def test_drain_finishes_what_was_accepted(backbone: Backbone, folder: Path) -> None:
    """Closing waits for accepted requests and refuses new ones."""
    worker = make(backbone, folder)
    worker.start()
    readers = [send(worker, request)[0] for request in requests()]
    closing = threading.Thread(target=worker.close, kwargs={"drain": True})
    closing.start()
    texts = [reader.text() for reader in readers]
    closing.join(timeout=60)

    assert all(texts)
    with pytest.raises(EngineClosedError):
        send(worker, requests()[0])


def test_engine_that_breaks_tells_every_client(
    worker: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a step fails, nobody waits for ever and the owner learns why."""

    def fail(*_: object) -> None:
        raise FloatingPointError("broken step")

    monkeypatch.setattr(worker.core, "_decode", fail)
    reader, _ = send(worker, GenerationRequest(encoded("x"), GREEDY))

    with pytest.raises(EngineClosedError):
        reader.pieces()
    with pytest.raises(FloatingPointError, match="broken step"):
        worker.ended.result(timeout=60)
