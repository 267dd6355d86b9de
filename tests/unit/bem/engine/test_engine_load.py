"""Tests of the engine's load."""

from pathlib import Path

from bem.engine import GenerationRequest
from bem.engine.api import ScaledAdapter, Segment
from bem.engine.engine_load import EngineLoad, adapters_of
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import ENDLESS, encode, make_engine, submit, write_adapters


def test_adapters_of_all_segments_are_named_once() -> None:
    """Earlier turns and composed adapters count; a factor of 0 and the base model do not."""
    composed = GenerationRequest(
        (1, 2, 3),
        adapter="alpha",
        adapter_start=2,
        earlier_segments=(Segment(0, 1, "gamma"),),
        further_adapters=(ScaledAdapter("beta"), ScaledAdapter("idle", 0.0)),
    )
    again = GenerationRequest((1,), adapter="alpha")

    assert adapters_of([composed, again, GenerationRequest((1,))]) == ("alpha", "beta", "gamma")


def test_load_follows_requests(tmp_path: Path) -> None:
    """A running request holds cache and its adapter; one beyond the rows waits with its own."""
    folder = write_adapters(tmp_path)
    engine = make_engine(tiny_backbone(), folder, rows=1, adapters=("alpha", "beta"))
    assert engine.load == EngineLoad(adapter_slots=3)
    requests = [
        GenerationRequest(encode("hold"), ENDLESS, max_tokens=40, adapter=name)
        for name in ("beta", "alpha")
    ]
    handles = [submit(engine, request)[1] for request in requests]
    engine.turn()
    load = engine.load

    assert (load.running_adapters, load.waiting_adapters) == (("beta",), ("alpha",))
    assert 0 < load.kv_usage <= 1
    for handle in handles:
        handle.cancel()
    engine.turn()
    assert engine.load == EngineLoad(adapter_slots=3)
