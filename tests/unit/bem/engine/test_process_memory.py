"""Tests of the memory that an engine's process keeps and releases."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.linear import FrozenLinear
from bem.engine.process_memory import release_weight_file
from bem.testing import tiny_backbone
from transformers import LlamaForCausalLM


def test_a_released_file_is_unmapped_and_values_stay(tmp_path: Path) -> None:
    """No page of the file stays mapped, and every parameter is what it was."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not show what is mapped")
    tiny_backbone().model.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}

    release_weight_file(model, keep=[])

    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changed", [False, True])
def test_kept_parameters_stay_in_the_file(tmp_path: Path, *, changed: bool) -> None:
    """The embedding is the only tensor left in the file, unless the file lacks its values."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not show what is mapped")
    tiny_backbone().model.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    if changed:
        model.model.embed_tokens.weight.data[3] = 7.0
    wanted = {name: value.clone() for name, value in model.state_dict().items()}

    release_weight_file(model, keep=[model.model.embed_tokens.weight])

    assert (str(tmp_path) in Path("/proc/self/maps").read_text()) is not changed
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_an_engine_as_loaded_computes_from_the_mapped_file(tmp_path: Path) -> None:
    """Gate, up, output, down and embedding matrices stay in the file, which processes share."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not show what is mapped")
    tiny_backbone().model.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    backbone = replace(tiny_backbone(), model=model.requires_grad_(requires_grad=False))
    wanted = tiny_backbone().model.lm_head.weight.clone()

    decoder = Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=16))

    lines = Path("/proc/self/maps").read_text().splitlines()
    line = next(line for line in lines if str(tmp_path) in line)
    begin, end = (int(address, 16) for address in line.split()[0].split("-"))
    mapped = [
        isinstance(one, FrozenLinear) and begin <= one.weight.data_ptr() < end
        for one in decoder.linears
    ]
    assert mapped == [False, True, True, True] * len(backbone.layers) + [True]
    assert torch.equal(model.lm_head.weight, wanted)


def cuda_code_kib() -> int | None:
    """Return resident code of CUDA's libraries; None where none is mapped."""
    sizes: list[int] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):
            inside = " r-xp " in line and "/site-packages/nvidia/" in line
        elif inside and line.startswith("Rss:"):
            sizes.append(int(line.split()[1]))
    return sum(sizes) if sizes else None


def test_code_pages_of_cuda_are_dropped_on_a_cpu() -> None:
    """The code pages of CUDA's libraries are not resident, and torch still multiplies."""
    if not Path("/proc/self/smaps").exists() or cuda_code_kib() is None:
        pytest.skip("this process has no CUDA libraries, or does not show them")

    release_weight_file(tiny_backbone().model)

    assert cuda_code_kib() == 0
    assert torch.equal(torch.eye(3) @ torch.ones(3, 2), torch.ones(3, 2))


def test_a_slot_takes_memory_as_it_is_written() -> None:
    """The first token of a row does not wait for all of its positions to be zeroed."""
    backbone = tiny_backbone(context_tokens=65_536)
    cache = KVCache(backbone, slots=8, context_tokens=65_536)
    layers, rows, heads, _, width = cache.keys.shape
    token = torch.ones(rows, 1, heads, width)
    before = psutil.Process().memory_info().rss

    span = cache.plan(list(range(rows)), [0] * rows, 1)
    read = [cache.write(layer, span, token, token) for layer in range(layers)]

    assert all(
        torch.equal(each, torch.ones(rows, heads, 1, width)) for pair in read for each in pair
    )
    assert psutil.Process().memory_info().rss - before < cache.keys.nbytes / 10
