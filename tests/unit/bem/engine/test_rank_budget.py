"""Rank budgets: a request with a budget is served exactly as by the truncated adapter."""

from dataclasses import replace
from pathlib import Path

import pytest
from bem.adapters.artifact import ADAPTER_FORMAT, read_adapter_card, save_adapter
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.testing import tiny_backbone

from tests.support.random_adapters import write_adapter
from tests.unit.bem.engine.engines import encode, make_engine, run_turns, submit

PROMPT = encode("Which boats sail on the northern sea in the winter, and where do they go?")
REQUEST = GenerationRequest(
    PROMPT, Sampling(temperature=0, logprobs=3), max_tokens=10, ignore_eos=True, adapter="whole"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 and the same adapter cut to rank 2."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder, tiny_backbone(), "whole", seed=3, constant_code=True)
    card = read_adapter_card(folder / "whole")
    tensors = ADAPTER_FORMAT.load_tensors(folder / "whole")
    cut = {}
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            cut[name] = tensor[:, :2]
        elif name.endswith(".A") or name.startswith(("controller.code", "controller.token_code")):
            cut[name] = tensor[:2]
        else:
            cut[name] = tensor
    save_adapter(folder / "cut", replace(card, name="cut", rank=2), cut)
    return folder


def answer(engine: LLMEngine, request: GenerationRequest) -> list[OutputDelta]:
    """Return all deltas of a request, without what depends on version and cache."""
    reader, _ = submit(engine, request)
    while engine.counters.running or engine.counters.waiting:
        run_turns(engine, 1)
    return [replace(one, adapter_version="", cached_tokens=0) for one in reader.deltas()]


def test_a_budget_is_the_truncated_adapter_bit_for_bit(folder: Path) -> None:
    """Texts and log-probabilities are equal, and differ from those of the whole adapter.

    Without a prefix cache all prompts are computed in the same chunks.
    """
    engine = make_engine(tiny_backbone(), folder, adapters=("whole", "cut"), prefix_bytes=0)

    budget = answer(engine, replace(REQUEST, adapter_rank=2))

    assert budget == answer(engine, replace(REQUEST, adapter="cut"))
    assert budget != answer(engine, REQUEST)


def test_a_budget_of_the_rank_or_more_is_the_whole_adapter(folder: Path) -> None:
    """Budgets from the rank on cut nothing."""
    engine = make_engine(tiny_backbone(), folder, adapters=("whole",), prefix_bytes=0)
    whole = answer(engine, REQUEST)

    assert answer(engine, replace(REQUEST, adapter_rank=4)) == whole
    assert answer(engine, replace(REQUEST, adapter_rank=99)) == whole


def test_a_budget_never_reads_blocks_of_the_whole_adapter(folder: Path) -> None:
    """The upper half of another budget is computed anew; that of the whole rank is shared."""
    engine = make_engine(tiny_backbone(), folder, adapters=("whole",))
    answer(engine, REQUEST)

    answer(engine, replace(REQUEST, adapter_rank=1))
    assert engine.counters.reused_tokens == 0
    answer(engine, replace(REQUEST, adapter_rank=4))
    assert engine.counters.reused_tokens > 0
