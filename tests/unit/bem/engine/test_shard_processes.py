"""Start of a model in two processes, as the setting of a mission does it."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.cache_policy import EVICTION_POLICIES
from bem.engine import CacheSetting, GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.engine.shard_processes import start_shards
from bem.engine.verification import verify_backbone
from bem.engine.weight_autotune import select_format
from bem.errors import InvalidSettingError, ShardGroupError, UnsupportedBackboneError
from bem.shard_group import Command

from tests.support.family_models import family_backbone
from tests.support.tiny_models import save_folder

pytestmark = [pytest.mark.slow]


@pytest.fixture
def halves(tmp_path: Path) -> Iterator[Backbone]:
    """A tiny Llama model in two processes."""
    folder = save_folder(tmp_path / "llama", family_backbone("llama").model)
    backbone = start_shards(str(folder), 2, device="cpu", cache=tmp_path / "cache")
    assert backbone.shards is not None
    yield backbone
    backbone.shards.stop()


def test_a_model_in_two_processes_is_verified_and_serves(halves: Backbone, tmp_path: Path) -> None:
    """It answers as one process does; what needs the whole model is refused by name."""
    assert verify_backbone(halves, context_tokens=256, cache=tmp_path) < 1e-4
    for kind in ("int8", "int4"):
        with pytest.raises(InvalidSettingError, match=f"{kind} weights are not supported"):
            select_format(halves, kind)
    served, choice = select_format(halves, "auto")
    assert choice.kind == "fp32"
    with pytest.raises(InvalidSettingError, match="cache policies are not supported"):
        LLMEngine(served, cache=CacheSetting(EVICTION_POLICIES["snapkv"](), 0.5))
    with pytest.raises(InvalidSettingError, match="CUDA graphs are not supported"):
        LLMEngine(served, graphs=True)

    engine = LLMEngine(served, context_tokens=128)
    engine.start()
    with pytest.raises(InvalidSettingError, match="adapters are not supported"):
        engine.load_adapter(tmp_path).result(60)
    assert answer(engine) == whole_answer()
    bank = AdapterBank(family_backbone("llama"), layers=[1, 2], rank=2, slots=1, feature_layer=0)
    with pytest.raises(InvalidSettingError, match="adapters are not supported"):
        LLMEngine(served, bank)
    engine.close(drain=True)
    assert served.shards is not None
    assert [process.returncode for process in served.shards.followers] == [0]
    with pytest.raises(ShardGroupError, match="out of step"):
        served.shards.send(Command.OPEN, 1, 1)


def test_an_engine_ends_with_a_process_that_holds_its_model(halves: Backbone) -> None:
    """The running request fails, and the service's supervisor starts all processes again."""
    assert halves.shards is not None
    engine = LLMEngine(halves, context_tokens=128)
    engine.start()
    halves.shards.followers[0].kill()
    received: list[OutputDelta | Exception] = []
    engine.submit(GenerationRequest((5, 7, 9)), received.append)
    assert engine.ended.exception(60) is not None
    assert isinstance(received[-1], Exception)


def test_bfloat16_is_converted_in_both(halves: Backbone) -> None:
    """Keys, values and sums have the type of the weights."""
    served, choice = select_format(halves, "bf16")
    engine = LLMEngine(served, context_tokens=128)
    engine.start()
    assert choice.kind == "bf16"
    assert engine.core.kv_cache.keys.dtype == torch.bfloat16
    assert len(answer(engine)) > 0
    engine.close(drain=True)


def test_a_model_that_cannot_be_cut_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before another process could wait for this one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    folder = save_folder(tmp_path / "olmo2", family_backbone("olmo2").model)
    with pytest.raises(UnsupportedBackboneError, match="OLMo-2"):
        start_shards(str(folder), 2, device="cpu", cache=tmp_path)
    folder = save_folder(tmp_path / "llama", family_backbone("llama").model)
    with pytest.raises(ShardGroupError, match="2 processes need 2 GPUs"):
        start_shards(str(folder), 2, device="cuda", cache=tmp_path)


def answer(engine: LLMEngine) -> str:
    """Return the greedy text of a started engine behind a prompt of two chunks."""
    received: queue.Queue[OutputDelta | Exception] = queue.Queue()
    request = GenerationRequest(tuple(range(90)), Sampling(temperature=0), max_tokens=12)
    engine.submit(request, received.put)
    text = ""
    while True:
        delta = received.get(timeout=60)
        if isinstance(delta, Exception):
            raise delta
        text += delta.text
        if delta.finish:
            return text


def whole_answer() -> str:
    """Return the text of one process that holds the whole model."""
    engine = LLMEngine(family_backbone("llama"), context_tokens=128)
    engine.start()
    text = answer(engine)
    engine.close(drain=True)
    return text
