"""Tests of the prefix cache: blocks are reused, and outputs stay the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.engine import GenerationRequest, LLMEngine
from bem.engine.prefix_cache import BLOCK_TOKENS, PrefixCache
from bem.testing import tiny_backbone

from tests.support.random_adapters import write_adapter
from tests.unit.bem.engine.engines import (
    ENDLESS,
    GREEDY,
    complete,
    encode,
    make_engine,
    run_turns,
    submit,
    write_adapters,
)

SYSTEM = "You are a careful assistant who answers from the given text and from nothing else. " * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def make_request(user: str, adapter: str | None = None, tokens: int = 12) -> GenerationRequest:
    """A request behind the shared system prompt."""
    return GenerationRequest(encode(SYSTEM + user), GREEDY, max_tokens=tokens, adapter=adapter)


def test_answers_are_the_same_with_and_without(folder: Path) -> None:
    """Base, adapters and mixed batches have the same outputs with and without the cache."""
    requests = [
        make_request(user, adapter)
        for user in ("What is it?", "And the second?", "What is it?")
        for adapter in (None, "alpha", "beta", "alpha")
    ]
    without = make_engine(tiny_backbone(), folder, prefix_bytes=0)
    within = make_engine(tiny_backbone(), folder)
    expected = [complete(without, request) for request in requests]
    readers = [submit(within, request)[0] for request in requests]
    while within.counters.running or within.counters.waiting:
        within.turn()

    assert [reader.text() for reader in readers] == expected
    assert without.counters.reused_tokens == 0
    assert within.counters.reused_tokens > 0


def test_shared_system_prompt_is_computed_once(folder: Path) -> None:
    """Requests that arrive together compute the shared blocks once, and the metric says so."""
    engine = make_engine(tiny_backbone(), folder)
    users = ("a?", "b?", "c?", "d?")
    for user in users:
        submit(engine, make_request(user))
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    shared = len(encode(SYSTEM)) // BLOCK_TOKENS * BLOCK_TOKENS
    total = sum(len(encode(SYSTEM + user)) for user in users)

    assert engine.counters.reused_tokens == (len(users) - 1) * shared
    assert engine.counters.prompt_tokens == total - engine.counters.reused_tokens


def test_adapters_share_the_lower_half_and_nothing_above(folder: Path) -> None:
    """Upper blocks are shared only by equal versions, scales and code prefixes of an adapter."""
    engine = make_engine(tiny_backbone(), folder)
    complete(engine, make_request("x", "alpha"))
    other = make_request("x", "beta")
    steps = (other, replace(other, adapter_scale=0.5), make_request("y", "beta"), make_request("x"))
    for request in steps:
        before = engine.counters.reused_tokens
        complete(engine, request)
        assert engine.counters.reused_tokens == before
    assert engine.counters.reused_lower_tokens > 0

    complete(engine, other)
    assert engine.counters.reused_tokens > 0


def test_reloaded_adapter_never_meets_stale_blocks(folder: Path, tmp_path: Path) -> None:
    """The version digest is part of the key."""
    backbone = tiny_backbone()
    engine = make_engine(backbone, folder)
    first = complete(engine, make_request("x", "alpha"))
    write_adapter(tmp_path, backbone, "alpha", seed=77)
    loading = engine.load_adapter(tmp_path / "alpha")
    engine.turn()
    fresh = make_engine(tiny_backbone(), tmp_path, adapters=("alpha",))

    assert loading.result().name == "alpha"
    assert (
        complete(engine, make_request("x", "alpha"))
        == complete(fresh, make_request("x", "alpha"))
        != first
    )
    assert engine.counters.reused_tokens == 0


def test_constant_code_shares_across_prompts(tmp_path: Path) -> None:
    """An adapter with a constant code, as of LoRA, shares its system prompt too."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=1, constant_code=True)
    engine = make_engine(tiny_backbone(), tmp_path, adapters=("alpha",))
    without = make_engine(tiny_backbone(), tmp_path, adapters=("alpha",), prefix_bytes=0)
    requests = [make_request("one", "alpha"), make_request("another", "alpha")]

    assert [complete(engine, one) for one in requests] == [
        complete(without, one) for one in requests
    ]
    assert engine.counters.reused_tokens >= BLOCK_TOKENS


def test_conversation_continues_from_its_answer(folder: Path) -> None:
    """Tokens that were generated are blocks as well."""
    engine = make_engine(tiny_backbone(), folder)
    reporting = replace(ENDLESS, logprobs=0)
    first = replace(make_request("go on", tokens=100), sampling=reporting)
    reader, _ = submit(engine, first)
    run_turns(engine, 110)
    said = [one.token for delta in reader.deltas() for one in delta.logprobs]
    second = replace(first, prompt_ids=(*first.prompt_ids, *said, *encode(" and then?")))
    before = engine.counters.reused_tokens
    complete(engine, second)

    assert engine.counters.reused_tokens - before >= len(first.prompt_ids) + 100 - BLOCK_TOKENS


def test_memory_is_bounded_and_the_oldest_leaves_first() -> None:
    """The least recently used block is evicted; a block above the limit is not stored."""
    cache = PrefixCache(limit_bytes=100)
    for name in (b"a", b"b"):
        cache.add(name, (torch.zeros(10),))
    assert cache.find(b"a") is not None
    cache.add(b"c", (torch.zeros(10),))
    cache.add(b"d", (torch.zeros(100),))

    assert (cache.bytes, len(cache)) == (80, 2)
    assert b"b" not in cache
    assert b"a" in cache
    assert b"d" not in cache


def test_tiny_cache_changes_no_answer(folder: Path) -> None:
    """Blocks that are evicted while they are needed are computed again."""
    without = make_engine(tiny_backbone(), folder, prefix_bytes=0)
    block = 2 * 4 * 2 * BLOCK_TOKENS * 8 * 4
    engine: LLMEngine = make_engine(tiny_backbone(), folder, prefix_bytes=3 * block)
    for user in ("p", "q", "p"):
        for adapter in (None, "alpha"):
            request = make_request(user, adapter)
            assert complete(engine, request) == complete(without, request)
    assert 0 < engine.core.prefix_cache.bytes <= 3 * block
