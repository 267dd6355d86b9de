"""Tests of the engine core: admission, steps and release."""

from pathlib import Path

import pytest
from bem.engine import (
    GenerationRequest,
    LLMEngine,
    OutputDelta,
    RequestHandle,
    kv_budget,
)
from bem.engine.kv_cache import position_bytes
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import (
    ENDLESS,
    GREEDY,
    encode,
    make_engine,
    submit,
    write_adapters,
)

BLOCK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def test_a_request_is_admitted_stepped_and_released(folder: Path) -> None:
    """After its last token a request leaves no slot and no lease behind."""
    core = make_engine(tiny_backbone(), folder, rows=2).core
    deltas: list[OutputDelta | Exception] = []
    request = GenerationRequest(encode("hi"), GREEDY, max_tokens=3, adapter="alpha")

    assert core.admit(RequestHandle(request, deltas.append))
    assert (core.scheduler.free_slots, len(core.scheduler.running)) == (1, 1)
    for _ in range(8):
        core.step()
    assert isinstance(deltas[-1], OutputDelta)
    assert deltas[-1].finish
    assert (core.scheduler.free_slots, core.scheduler.running) == (2, [])
    assert core.binding.bank is not None
    assert core.binding.bank.leases() == 0


def test_a_request_without_a_free_adapter_slot_waits(folder: Path) -> None:
    """Admission returns False while other requests use all adapter slots."""
    core = make_engine(tiny_backbone(), folder, rows=2, slots=1).core
    for name, admitted in (("alpha", True), ("beta", False), ("alpha", True)):
        request = GenerationRequest(encode("hi"), GREEDY, max_tokens=3, adapter=name)
        assert core.admit(RequestHandle(request, lambda _: None)) is admitted


def test_a_prompt_beyond_the_context_is_refused(folder: Path) -> None:
    """The error names the limit, and no slot is taken."""
    core = make_engine(tiny_backbone(), folder, rows=1).core
    request = GenerationRequest(tuple([5] * (core.context_tokens + 1)))
    with pytest.raises(InvalidRequestError, match="are allowed"):
        core.admit(RequestHandle(request, lambda _: None))

    assert core.scheduler.free_slots == 1


def test_memory_is_bounded_and_changes_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that together need more than the bound wait and pause, and end as without one."""
    monkeypatch.setattr(kv_budget, "BLOCK", BLOCK)
    limit = 5 * BLOCK
    requests = [
        GenerationRequest(encode(f"{number}" * 8), ENDLESS, max_tokens=3 * BLOCK, adapter=adapter)
        for number, adapter in enumerate(("alpha", None, "beta"))
    ]
    texts: dict[int | None, list[str]] = {}
    held: list[int] = []
    for kv_bytes in (None, limit * position_bytes(tiny_backbone())):
        backbone = tiny_backbone(context_tokens=4 * BLOCK)
        engine = make_engine(backbone, folder, kv_bytes=kv_bytes, prefix_bytes=0)
        readers = [submit(engine, request)[0] for request in requests]
        while engine.counters.running or engine.counters.waiting:
            engine.turn()
            held.append(engine.kv_tokens if kv_bytes else 0)
        texts[kv_bytes] = [reader.text() for reader in readers]
        assert engine.kv_tokens == 0

    assert 3 * BLOCK < max(held) <= limit
    assert len({tuple(one) for one in texts.values()}) == 1


def test_the_context_is_the_models_own_or_what_memory_holds() -> None:
    """Without settings the model decides; no request may need more than the bound."""
    backbone = tiny_backbone(context_tokens=1024)
    unbounded = LLMEngine(backbone, max_sequences=1)
    bounded = LLMEngine(backbone, max_sequences=1, kv_bytes=700 * position_bytes(backbone))

    assert unbounded.context_tokens == 1024
    assert bounded.context_tokens == 700
    assert LLMEngine(backbone, max_sequences=1, context_tokens=64).context_tokens == 64


def test_a_refused_request_holds_no_memory(folder: Path) -> None:
    """A request for an adapter that is not loaded leaves the budget as it was."""
    core = make_engine(tiny_backbone(), folder, rows=1).core
    request = GenerationRequest(encode("hi"), GREEDY, adapter="unknown")
    with pytest.raises(AdapterNotFoundError):
        core.admit(RequestHandle(request, lambda _: None))

    assert core.kv_budget.granted == 0
