"""Tests of decode steps of fixed shapes, which CUDA replays as graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import GenerationRequest
from bem.engine.decode_steps import MIN_GRAPH_POSITIONS, GraphDecodeSteps
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.testing import tiny_backbone
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.unit.bem.engine.engines import (
    ADAPTERS,
    ENDLESS,
    encode,
    make_engine,
    submit,
    write_adapters,
)

CONTEXT = 600
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="has no CUDA device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def outputs(folder: Path, backbone: Backbone, *, graphs: bool) -> list[str]:
    """Complete requests of several adapters and lengths that join and leave at different steps."""
    engine = make_engine(backbone, folder, rows=5, adapters=ADAPTERS, graphs=graphs)
    readers = []
    for place, adapter in enumerate([None, *ADAPTERS, None, "alpha", "beta", None]):
        prompt = encode("x" * (7 if place % 3 else MIN_GRAPH_POSITIONS - 10) + str(place))
        limit = 12 + 5 * place
        readers.append(
            submit(engine, GenerationRequest(prompt, ENDLESS, limit, adapter=adapter))[0]
        )
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    return [reader.text() for reader in readers]


def test_fixed_shapes_change_no_output(folder: Path) -> None:
    """Slots without a token and rounded lengths change no answer."""
    plain = outputs(folder, tiny_backbone(context_tokens=CONTEXT), graphs=False)

    assert outputs(folder, tiny_backbone(context_tokens=CONTEXT), graphs=True) == plain
    assert len(set(plain)) == len(plain)


@CUDA
def test_replayed_graphs_change_no_output(folder: Path) -> None:
    """On a GPU, replayed graphs give the outputs of the same steps launched one by one."""
    backbones = [tiny_backbone(context_tokens=CONTEXT) for _ in range(2)]
    for backbone in backbones:
        backbone.model.to("cuda")

    assert outputs(folder, backbones[0], graphs=True) == outputs(folder, backbones[1], graphs=False)


def graph_steps(folder: Path) -> tuple[GraphDecodeSteps, AdapterBank]:
    """Steps of four rows with all adapters loaded."""
    backbone = tiny_backbone(context_tokens=CONTEXT)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    for name in ADAPTERS:
        bank.load(folder / name)
    cache = KVCache(backbone, slots=4, context_tokens=CONTEXT + 1)
    return GraphDecodeSteps(Decoder(backbone, bank, cache), bank, cache, CONTEXT), bank


def test_a_row_at_the_last_position_is_left_alone(folder: Path) -> None:
    """A slot without a token writes where no row ever reads."""
    with torch.inference_mode():
        steps, bank = graph_steps(folder)
        cache = steps._kv_cache
        cache.keys.uniform_(), cache.values.uniform_()
        before = cache.keys[:, 0, :, :CONTEXT].clone()
        bank.row_codes.clear()
        steps.lower([2], [5], [1], [0])
        steps.upper()

        assert torch.equal(cache.keys[:, 0, :, :CONTEXT], before)


def test_shapes_are_few(folder: Path) -> None:
    """However rows come, go and grow: slots, lengths and adapters are rounded up."""
    with torch.inference_mode():
        steps, bank = graph_steps(folder)
        bank.row_codes.clear()
        for place in range(CONTEXT):
            steps.lower([place % 4], [place], [1], [0])
            steps.upper()

    # Three counts of slots by three lengths, in wide_inputs.
    assert steps.graph_count == 2 * 3 * 3


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one and run it."""
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# A value or a shape that the host must wait for, or a tensor that comes from the host.
NOT_CAPTURED = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2"}


def test_nothing_in_a_step_looks_at_data(folder: Path) -> None:
    """Neither half has an operation that a capture refuses."""
    with torch.inference_mode():
        steps, bank = graph_steps(folder)
        slots = torch.tensor([[bank.acquire(name).slot] for name in ADAPTERS])
        bank.row_codes.set(slots, torch.ones(3, 1, RANK))
        steps.lower([0, 1, 3], [4, 2, 9], [1, 2, 3], [0, 0, 0])
        steps.upper()
        with Operations() as within:
            steps._hidden, _ = steps._lower(4, MIN_GRAPH_POSITIONS, 0)
            steps._upper(4, MIN_GRAPH_POSITIONS, 4, 0, 0)
            steps._upper(4, MIN_GRAPH_POSITIONS, 4, 1, 0)
        with Operations() as around:
            steps.lower([0, 1, 3], [5, 3, 10], [1, 2, 3], [0, 0, 0])

    assert not within.names & NOT_CAPTURED
    assert "addmm" in within.names
    assert around.names & NOT_CAPTURED
