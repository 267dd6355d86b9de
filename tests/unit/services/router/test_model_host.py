"""Tests of the model host on an engine with fixed answers."""

from pathlib import Path

import pytest
from bem.engine import OutputDelta
from bem.errors import AdapterNotFoundError, EngineClosedError, InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.request_parsing import RequestedStrength
from bemfleet.router.v1 import router_pb2 as pb
from fleet.call_priority import yields
from fleet.errors import UnavailableError

from tests.unit.services.router.fake_engine import DELTAS, FakeEngine

REQUEST = pb.GenerateRequest(prompt="x")


def host_of(*deltas: OutputDelta | Exception, floor: float = 0.0) -> ModelHost:
    """A host whose engine gives these deltas."""
    engine = FakeEngine(deltas or DELTAS)
    return ModelHost(tiny_backbone(), engine, Path(), safety_strength=0.5, safety_floor=floor)


async def test_deltas_are_streamed_and_the_handle_is_cancelled() -> None:
    """All deltas arrive in order; leaving the iteration early cancels the request."""
    host = host_of()
    engine = host._engine
    assert isinstance(engine, FakeEngine)
    assert [delta async for delta in host.generate(host.parse(REQUEST, None))] == list(DELTAS)
    stream = host.generate(host.parse(REQUEST, None))
    await anext(stream)
    await stream.aclose()

    assert [handle.cancelled for handle in engine.handles] == [True, True]


async def test_a_complete_output_joins_the_deltas() -> None:
    """Text is joined; count, reason and version are those of the last delta."""
    host = host_of()
    output = await host.complete(host.parse(REQUEST, None))

    assert (output.text, output.completion_tokens, output.finish) == ("hello", 2, "stop")
    assert host.model_version(output.adapter_version).endswith("+" + "b" * 12)


async def test_errors_of_the_engine_are_raised() -> None:
    """An exception in place of a delta ends stream and call."""
    host = host_of(EngineClosedError("closed"))
    with pytest.raises(EngineClosedError):
        await host.complete(host.parse(REQUEST, None))
    with pytest.raises(EngineClosedError):
        await anext(host.generate(host.parse(REQUEST, None)))


def test_the_floor_limits_requested_and_default_strength() -> None:
    """The larger of floor and strength applies."""
    assert host_of().parse(REQUEST, None).safety_strength == 0.5
    assert host_of().parse(REQUEST, None, RequestedStrength(0.0)).safety_strength == 0.0
    assert host_of(floor=0.8).parse(REQUEST, None).safety_strength == 0.8
    assert host_of(floor=0.8).parse(REQUEST, None, RequestedStrength(0.9)).safety_strength == 0.9
    minimum = RequestedStrength(minimum=0.7)
    assert host_of().parse(REQUEST, None, minimum).safety_strength == 0.7


def test_an_unknown_model_is_named_with_the_loaded_ones() -> None:
    """The base model has its name and the empty name."""
    host = host_of()
    assert host.find_adapter("") is None
    assert host.find_adapter("tiny") is None
    with pytest.raises(AdapterNotFoundError, match="tiny"):
        host.find_adapter("gpt")


async def test_adapters_need_a_name_and_a_folder(tmp_path: Path) -> None:
    """Paths never reach the disk; an engine without adapters loads nothing."""
    host = ModelHost(tiny_backbone(), FakeEngine(DELTAS), tmp_path)
    with pytest.raises(InvalidRequestError, match="at most 64"):
        await host.load_adapter("../x")
    with pytest.raises(UnavailableError):
        await host.load_adapter("x")
    with pytest.raises(UnavailableError):
        await host.unload_adapter("x")


def test_a_loading_host_is_unavailable() -> None:
    """Until the model is loaded callers are told to retry."""
    lazy = LazyModelHost()
    with pytest.raises(UnavailableError, match="still loading"):
        lazy.get()
    lazy.loaded = host_of()

    assert lazy.get() is lazy.loaded


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_mirrored_call_makes_a_request_that_yields(mirrored: bool) -> None:
    """The engine refuses it before it refuses a client's own."""
    token = yields.set(mirrored)
    request = host_of().parse(REQUEST, None)
    yields.reset(token)

    assert request.yields is mirrored
