"""Tests of the engine: the output of a request does not depend on other requests."""

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
    NonFiniteLogitsError,
    QueueFullError,
    RequestFailedError,
)
from bem.testing import tiny_backbone

from tests.support.random_adapters import write_adapter
from tests.unit.bem.engine.engines import GREEDY, encode, make_engine, submit, write_adapters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def backbone() -> Backbone:
    """A fresh tiny model."""
    return tiny_backbone()


@pytest.fixture
def engine(backbone: Backbone, folder: Path) -> Iterator[LLMEngine]:
    """A running engine with two adapters."""
    made = make_engine(backbone, folder)
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
            GenerationRequest(encode(text), sampling, max_tokens=20 + 15 * index, adapter=adapter)
        )
    return mixed


def reference(backbone: Backbone, ids: tuple[int, ...], count: int) -> str:
    """Return transformers' own greedy answer."""
    out = backbone.model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    answer: str = backbone.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    return answer


def test_base_model_answers_as_transformers_does(engine: LLMEngine) -> None:
    """Greedy text equals that of generate() on the unmodified model."""
    ids = encode("hello there, " * 30)
    reader, _ = submit(engine, GenerationRequest(ids, GREEDY, max_tokens=40))

    assert reader.text() == reference(tiny_backbone(), ids, 40)


def test_answer_alone_equals_answer_in_a_batch(engine: LLMEngine) -> None:
    """Adapters, lengths and sampling of other rows never change a request's text."""
    alone = [submit(engine, request)[0].text() for request in requests()]
    readers = [submit(engine, request)[0] for request in requests()]

    assert [reader.text() for reader in readers] == alone
    assert len(set(alone)) == len(alone)


def test_adapter_changes_the_answer_and_scale_zero_does_not(engine: LLMEngine) -> None:
    """An adapter at scale 0 is the base model exactly."""
    base = GenerationRequest(encode("tell me"), GREEDY, max_tokens=30)
    texts = [
        submit(engine, request)[0].text()
        for request in (
            base,
            replace(base, adapter="alpha"),
            replace(base, adapter="alpha", adapter_scale=0.0),
        )
    ]

    assert texts[0] == texts[2] != texts[1]


def test_code_moves_at_chunk_borders_without_touching_other_rows(engine: LLMEngine) -> None:
    """Answers longer than several chunks stay independent of the batch."""
    long = GenerationRequest(encode("a long one"), GREEDY, max_tokens=200, adapter="beta")
    alone = submit(engine, long)[0].text()
    readers = [
        submit(engine, replace(long, adapter=adapter))[0] for adapter in ("beta", "alpha", None)
    ]

    assert readers[0].text() == alone
    assert len({alone, readers[1].text(), readers[2].text()}) == 3


def test_same_seed_gives_the_same_text(engine: LLMEngine) -> None:
    """Sampling is reproducible by seed, and differs without one."""
    seeded = GenerationRequest(encode("x"), Sampling(seed=7), max_tokens=40)
    free = replace(seeded, sampling=Sampling())

    first, second = (submit(engine, seeded)[0].text() for _ in range(2))
    third, fourth = (submit(engine, free)[0].text() for _ in range(2))
    assert first == second
    assert third != fourth


def test_stop_text_ends_the_answer_before_it(engine: LLMEngine) -> None:
    """Neither the stop text nor what follows is part of the answer."""
    base = GenerationRequest(encode("stop test"), GREEDY, max_tokens=60)
    whole = submit(engine, base)[0].text()
    stop = whole[10:13]
    deltas = submit(engine, replace(base, stop=(stop,)))[0].deltas()

    assert "".join(delta.text for delta in deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish == "stop"


def test_max_tokens_are_counted(engine: LLMEngine) -> None:
    """The last delta has the number of tokens and the finish reason."""
    last = submit(engine, GenerationRequest(encode("count"), GREEDY, max_tokens=9))[0].deltas()[-1]

    assert (last.completion_tokens, last.finish) == (9, "length")


def test_cancelled_request_frees_its_row(backbone: Backbone, folder: Path) -> None:
    """With one row, the next request runs as soon as the first is cancelled."""
    engine = make_engine(backbone, folder, rows=1)
    engine.start()
    reader, handle = submit(engine, GenerationRequest(encode("long"), GREEDY, max_tokens=500))
    reader.arrived.get(timeout=60)
    second, _ = submit(engine, GenerationRequest(encode("next"), GREEDY, max_tokens=3))
    handle.cancel()

    assert second.deltas()[-1].completion_tokens == 3
    assert engine.counters.dropped == 1
    engine.close(drain=True)


def test_late_request_ends_with_its_deadline(engine: LLMEngine) -> None:
    """A request past its deadline ends with an error."""
    late = GenerationRequest(encode("x"), GREEDY, max_tokens=400, deadline=time.monotonic())

    with pytest.raises(DeadlineExceededError):
        submit(engine, late)[0].deltas()


def test_full_queue_refuses_with_a_delay(backbone: Backbone, folder: Path) -> None:
    """A request beyond the bound is refused at once and told when to come back."""
    engine = make_engine(
        backbone, folder, rows=1, waiting=2
    )  # not started: nothing leaves the queue
    for _ in range(2):
        submit(engine, GenerationRequest(encode("x")))
    with pytest.raises(QueueFullError) as caught:
        submit(engine, GenerationRequest(encode("x")))

    assert 0.5 <= caught.value.retry_after_s <= 60


def test_unknown_adapter_is_named(engine: LLMEngine) -> None:
    """The error lists what is loaded."""
    with pytest.raises(AdapterNotFoundError, match="alpha, beta"):
        submit(engine, GenerationRequest(encode("x"), adapter="gamma"))[0].deltas()


def test_reload_leaves_running_requests_on_their_version(
    engine: LLMEngine, tmp_path: Path, backbone: Backbone
) -> None:
    """A request keeps the version it began with while its name gets another."""
    request = GenerationRequest(encode("version"), GREEDY, max_tokens=150, adapter="alpha")
    before = submit(engine, request)[0].text()
    write_adapter(tmp_path, backbone, "alpha", seed=99)
    reader, _ = submit(engine, request)
    first = reader.arrived.get(timeout=60)
    assert isinstance(first, OutputDelta)
    engine.load_adapter(tmp_path / "alpha").result(timeout=60)

    assert first.text + reader.text() == before
    assert submit(engine, request)[0].text() != before
    with pytest.raises(AdapterNotFoundError):
        engine.unload_adapter("nobody").result(timeout=60)


def test_drain_finishes_what_was_accepted(backbone: Backbone, folder: Path) -> None:
    """Closing waits for accepted requests and refuses new ones."""
    engine = make_engine(backbone, folder)
    engine.start()
    readers = [submit(engine, request)[0] for request in requests()]
    closing = threading.Thread(target=engine.close, kwargs={"drain": True})
    closing.start()
    texts = [reader.text() for reader in readers]
    closing.join(timeout=60)

    assert all(texts)
    with pytest.raises(EngineClosedError):
        submit(engine, requests()[0])


def answer(engine: LLMEngine, adapter: str | None = None) -> str:
    """Return the answer to "hello"."""
    reader, _ = submit(engine, GenerationRequest(encode("hello"), GREEDY, 12, adapter=adapter))
    return reader.text()


def test_non_finite_logits_end_their_request_only(backbone: Backbone, folder: Path) -> None:
    """An adapter whose factors turned to NaN fails by name; base and other adapter go on."""
    engine = make_engine(backbone, folder)
    site = next(iter(engine._require_bank().factors.sites.values()))
    expected = reference(tiny_backbone(), encode("hello"), 12)
    engine.start()
    slot = engine.adapter("alpha").slot  # type: ignore[union-attr]
    with torch.inference_mode():
        site.A[slot] = float("nan")
    with pytest.raises(NonFiniteLogitsError, match="adapter 'alpha'"):
        answer(engine, "alpha")
    assert answer(engine) == expected
    assert answer(engine, "beta")
    assert not engine.ended.done()
    engine.close(drain=True)
    assert engine.core.scheduler.free_slots == 4
    assert engine._require_bank().leases() == 0


def test_failing_receiver_ends_its_request_only(engine: LLMEngine) -> None:
    """A receiver that raises does not end the engine; the next request is answered."""

    def receive(delta: OutputDelta | Exception) -> None:
        raise KeyError(str(delta))

    engine.submit(GenerationRequest(encode("hello"), GREEDY, 12), receive)
    text = answer(engine)

    assert text == reference(tiny_backbone(), encode("hello"), 12)
    assert not engine.ended.done()


def test_failing_step_ends_what_it_computed(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests of the step fail with a library error, and later requests are answered."""
    step = engine.core.step
    failures = iter([RuntimeError("shape mismatch")])

    def failing_step() -> None:
        if engine.core.scheduler.running and (failure := next(failures, None)):
            raise failure
        step()

    monkeypatch.setattr(engine.core, "step", failing_step)
    with pytest.raises(RequestFailedError, match="see the server's log"):
        answer(engine, adapter="alpha")
    text = answer(engine)

    assert text == reference(tiny_backbone(), encode("hello"), 12)
    assert not engine.ended.done()


def test_failing_command_is_the_callers(engine: LLMEngine, tmp_path: Path) -> None:
    """An unexpected error of a load reaches the caller; the engine serves on."""
    engine._require_bank().load = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError):
        engine.load_adapter(tmp_path).result(30)

    assert answer(engine)
    assert not engine.ended.done()


def test_engine_whose_model_is_broken_ends(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the model cannot compute either, the process that serves it must know."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine.core, "step", broken)
    monkeypatch.setattr(engine.core.decoder, "logits", broken)
    with pytest.raises(RequestFailedError):
        answer(engine)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.ended.result(30)
