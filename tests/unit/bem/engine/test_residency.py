"""Tests of adapter residency: adapters are copied into slots on demand, without any effect."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from bem.adapters.bank import AdapterBank
from bem.engine import GenerationRequest, LLMEngine, Segment
from bem.errors import ArtifactTamperedError, InvalidRequestError, SlotsFullError
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.unit.bem.engine.engines import (
    GREEDY,
    DeltaReader,
    complete,
    encode,
    make_engine,
    run_turns,
    submit,
)

COUNT = 24
NAMES = tuple(f"adapter-{n:02}" for n in range(COUNT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen adapters on disk."""
    path = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        write_adapter(path, tiny_backbone(), name, seed=seed)
    return path


def make_request(adapter: str, tokens: int = 8) -> GenerationRequest:
    """A request for one adapter."""
    return GenerationRequest(encode("who are you?"), GREEDY, max_tokens=tokens, adapter=adapter)


def finish(engine: LLMEngine) -> None:
    """Run until no request is left."""
    while engine.counters.running or engine.counters.waiting:
        engine.turn()


def test_working_set_beyond_the_slots_answers_as_if_all_were_resident(folder: Path) -> None:
    """Requests of 24 adapters through two slots get the outputs of 24 slots."""
    roomy = make_engine(tiny_backbone(), folder, slots=COUNT, adapters=NAMES)
    tight = make_engine(tiny_backbone(), folder, slots=2, adapters=NAMES, waiting=64)
    expected = {name: complete(roomy, make_request(name)) for name in NAMES}
    order = [NAMES[7 * n % COUNT] for n in range(2 * COUNT)]
    readers = [submit(tight, make_request(name))[0] for name in order]
    finish(tight)

    assert [reader.text() for reader in readers] == [expected[name] for name in order]
    assert len(set(expected.values())) == COUNT
    assert tight.counters.page_ins >= COUNT
    assert roomy.counters.page_ins == COUNT


def test_request_in_flight_keeps_its_slot(folder: Path) -> None:
    """With all slots in use the next adapter waits until one is free."""
    engine = make_engine(tiny_backbone(), folder, rows=4, slots=1, adapters=NAMES[:2])
    alone = make_engine(tiny_backbone(), folder, rows=4, slots=2, adapters=NAMES[:2])
    long = make_request(NAMES[0], tokens=60)
    first, _ = submit(engine, long)
    run_turns(engine, 5)
    second, _ = submit(engine, make_request(NAMES[1]))
    third, _ = submit(engine, make_request(NAMES[0]))
    run_turns(engine, 5)

    assert second.arrived.empty()
    assert engine.counters.waiting == 2
    finish(engine)
    texts = [reader.text() for reader in (first, second, third)]
    assert texts == [
        complete(alone, one) for one in (long, make_request(NAMES[1]), make_request(NAMES[0]))
    ]


def test_least_recently_used_adapter_makes_room(folder: Path) -> None:
    """The least recently used adapter is evicted, not the oldest."""
    bank = AdapterBank(
        tiny_backbone(), layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER
    )
    loaded = [bank.load(folder / name) for name in NAMES[:3]]
    bank.release(bank.acquire(NAMES[0]))
    bank.release(bank.acquire(NAMES[2]))

    assert [adapter.slot is not None for adapter in loaded] == [True, False, True]


def test_folder_that_changed_is_refused_and_others_go_on(tmp_path: Path) -> None:
    """An adapter whose files changed since it was loaded fails only its own request."""
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path, tiny_backbone(), name, seed=seed)
    engine = make_engine(tiny_backbone(), tmp_path, slots=1, adapters=("one", "two"))
    write_adapter(tmp_path, tiny_backbone(), "two", seed=5)
    changed, _ = submit(engine, make_request("two"))
    kept, _ = submit(engine, make_request("one"))
    finish(engine)

    with pytest.raises(ArtifactTamperedError, match="load it again"):
        changed.deltas()
    assert kept.text()
    assert engine.core.binding.bank is not None
    assert engine.core.binding.bank.leases() == 0


def test_files_are_checked_again_when_anything_was_written(tmp_path: Path) -> None:
    """A changed byte is detected although the modification time is the old one."""
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path, tiny_backbone(), name, seed=seed)
    bank = AdapterBank(
        tiny_backbone(), layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER
    )
    for name in ("one", "two"):
        bank.load(tmp_path / name)
    tensors = tmp_path / "two/adapter.safetensors"
    raw, stat = tensors.read_bytes(), tensors.stat()
    tensors.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    os.utime(tensors, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        bank.acquire("two")
    tensors.write_bytes(raw)

    assert bank.acquire("two").slot == 0


def test_limits_are_named(folder: Path) -> None:
    """One adapter too many is refused, and so is a request with more adapters than slots."""
    bank = AdapterBank(
        tiny_backbone(),
        layers=LAYERS,
        rank=RANK,
        slots=1,
        feature_layer=FEATURE_LAYER,
        max_loaded=2,
    )
    for name in NAMES[:2]:
        bank.load(folder / name)
    with pytest.raises(SlotsFullError, match="the limit"):
        bank.load(folder / NAMES[2])
    bank.load(folder / NAMES[1])

    engine = make_engine(tiny_backbone(), folder, slots=1, adapters=NAMES[:2])
    two = replace(
        make_request(NAMES[0]), adapter_start=4, earlier_segments=(Segment(0, 4, NAMES[1]),)
    )
    reader: DeltaReader = submit(engine, two)[0]
    finish(engine)
    with pytest.raises(InvalidRequestError, match="1 can be resident"):
        reader.deltas()
