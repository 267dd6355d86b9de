"""A model in two processes: exactness of every family, and of the engine's own ways through it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from bem.backbone import Backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.engine.decoder import Decoder
from bem.engine.shard_leader import open_cache, reference_logits
from bem.shard_group import Command, ShardGroup
from bem.sharded_backbone import load_shard
from torch import Tensor

from tests.support.family_models import VARIANTS
from tests.support.tiny_models import backbone_of, save_folder, tiny_model

pytestmark = [pytest.mark.slow]
TOLERANCE = 1e-4
CUT = ("qwen2-window", "qwen3", "granite", "smollm3", "phi3", "gemma2", "gemma3")
"""One variant of each way in which a layer's weights differ, among those that can be cut."""
IDS = torch.tensor([[(7 * place) % 250 for place in range(40)]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the variants."""
    root = tmp_path_factory.mktemp("models")
    return {name: save_folder(root / name, whole_model(name).model) for name in CUT}


@pytest.fixture(scope="module")
def group(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ShardGroup]:
    """Group of this process and one that follows through the variants in their order."""
    root = tmp_path_factory.mktemp("group")
    names = [str(folders[name]) for name in CUT]
    arguments = ["-m", "tests.support.shard_worker", str(root / "store"), str(root), *names]
    follower = subprocess.Popen([sys.executable, *arguments])
    made = ShardGroup(0, 2, root / "store", torch.device("cpu"))
    yield made
    made.share_numbers([-1])
    assert follower.wait(60) == 0
    dist.destroy_process_group()


@pytest.mark.parametrize("name", CUT)
def test_every_family_is_the_whole_model(
    name: str, group: ShardGroup, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Prefill, decode, transformers' own layers and greedy texts in a batch equal one process's."""
    group.share_numbers([CUT.index(name)])
    part = load_shard(str(folders[name]), group, tmp_path)
    whole = whole_model(name)
    with torch.inference_mode():
        expected = whole.model(IDS).logits[0]
        assert close(reference_logits(part, IDS)[0], expected)
        assert close(stepwise_logits(part), expected)
    assert greedy(part) == greedy(whole)
    group.send(Command.STOP)  # the follower goes on to the next variant


def whole_model(name: str) -> Backbone:
    """Return a variant in one process; some tokenizers add tokens when they are read again."""
    model_type, changes = VARIANTS[name]
    return backbone_of(tiny_model(model_type, **{**changes, "vocab_size": 280}), name)


def close(actual: Tensor, expected: Tensor) -> bool:
    """Return whether logits are equal within the tolerance."""
    return float((actual - expected).abs().max()) <= TOLERANCE


def stepwise_logits(backbone: Backbone) -> Tensor:
    """Return the logits ``[T, V]`` of two chunks and then of single tokens through the cache."""
    decoder = Decoder(backbone, None, open_cache(backbone, slots=3, context_tokens=64))
    logits = []
    for begin, end in [(0, 9), (9, 30), *((place, place + 1) for place in range(30, 40))]:
        plan = decoder.plan([1], [begin], end - begin)
        hidden, _ = decoder.lower(IDS[:, begin:end], plan)
        logits.append(decoder.logits(decoder.upper(hidden, plan)[0].unsqueeze(1)))
    return torch.cat(logits)


def greedy(backbone: Backbone) -> list[str]:
    """Return the greedy texts of a batch, and of prompts that find blocks of it in the cache."""
    engine = LLMEngine(backbone, context_tokens=256, max_sequences=3, prefix_bytes=2**24)
    texts: list[str] = []
    for added in (0, 20):
        outputs: list[list[OutputDelta | Exception]] = []
        for row in range(3):
            ids = tuple((7 * place + row) % 250 for place in range(70 + added + row))
            request = GenerationRequest(ids, Sampling(temperature=0), max_tokens=4, min_tokens=4)
            outputs.append([])
            engine.submit(request, outputs[-1].append)
        engine.turn()
        while engine.counters.running or engine.counters.waiting:
            engine.turn()
        texts += [
            "".join(one.text for one in row if isinstance(one, OutputDelta)) for row in outputs
        ]
    assert engine.counters.reused_tokens > 0
    return texts
