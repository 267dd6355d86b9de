"""Tests of the engine core: admission, steps and release."""

from pathlib import Path

import pytest
from bem.engine import GenerationRequest, OutputDelta, RequestHandle
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import GREEDY, encode, make_engine, write_adapters


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
