"""Tests of KV cache compression against a slow reference with a mask for each KV head."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bem.adapters.site import BemSite
from bem.cache_policy import (
    EVICTION_POLICIES,
    CacheScorer,
    EvictionPolicy,
    LearnedPolicy,
    ObservationWindowPolicy,
)
from bem.engine import CacheSetting, GenerationRequest, LLMEngine, RequestHandle, Sampling
from bem.engine.kv_cache import position_bytes
from bem.errors import InvalidSettingError
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.family_models import family_backbone
from tests.support.offered_memory import record_offers
from tests.support.slow_attention import Keep, SlowRun, run_with_masks
from tests.unit.bem.engine.engines import (
    ENDLESS,
    DeltaReader,
    complete,
    encode,
    make_engine,
    submit,
    write_adapters,
)

PROMPT = tuple(encode("the cat sat on the mat and looked at the rat"))
COUNT = len(PROMPT)
BUDGET = COUNT // 2
LAYERS, QUERY_HEADS, KV_HEADS = 4, 4, 2
WITH_LOGPROBS = Sampling(temperature=0, logit_bias=ENDLESS.logit_bias, logprobs=0)
OUTPUT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def mass(queries: Tensor, keys: Tensor, rows: range) -> Tensor:
    """Return the attention ``[H, P]`` that entries get from some rows, summed one by one."""
    total = torch.zeros(keys.shape[:2])
    for head in range(len(queries)):
        kv_head = head // (len(queries) // len(keys))
        for row in rows:
            logits = keys[kv_head, : row + 1] @ queries[head, row] / keys.shape[-1] ** 0.5
            total[kv_head, : row + 1] += logits.softmax(0)
    return total


def best(scores: Tensor, recent: int) -> Tensor:
    """Return the ``BUDGET`` best of each head as a mask, among them the recent ones."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for head in range(len(scores)):
        order = sorted(range(COUNT), key=lambda at: (at < COUNT - recent, -float(scores[head, at])))
        kept[head, order[:BUDGET]] = True
    return kept


def keep_sinks(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """StreamingLLM as a mask: four sinks and a window."""
    del layer, queries, values
    positions = torch.arange(COUNT)
    return ((positions < 4) | (positions >= COUNT - BUDGET + 4)).expand(len(keys), -1)


def keep_heavy(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """H2O by brute force."""
    del layer, values
    return best(mass(queries, keys, range(COUNT)), BUDGET // 2)


def keep_observed(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """SnapKV by brute force: a window of 8, averages over 3."""
    del layer, values
    scores = mass(queries, keys, range(COUNT - 8, COUNT))
    pooled = torch.zeros_like(scores)
    for at in range(COUNT):
        pooled[:, at] = scores[:, max(0, at - 1) : at + 2].sum(1) / 3
    return best(pooled, 8)


def keep_diverse(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """KeyDiff by brute force."""
    del layer, queries, values
    scores = torch.zeros(keys.shape[:2])
    for head in range(len(keys)):
        unit = [key / key.norm() for key in keys[head]]
        mean = torch.stack(unit).mean(0)
        for at in range(COUNT):
            scores[head, at] = -float(unit[at] @ mean / mean.norm())
    return best(scores, 0)


def keep_all(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Nothing is evicted."""
    del layer, queries, values
    return torch.ones(keys.shape[:2], dtype=torch.bool)


REFERENCES: dict[str, tuple[Callable[[], EvictionPolicy], Keep]] = {
    "streaming_llm": (EVICTION_POLICIES["streaming_llm"], keep_sinks),
    "h2o": (EVICTION_POLICIES["h2o"], keep_heavy),
    "snapkv": (lambda: ObservationWindowPolicy(window=8, kernel=3), keep_observed),
    "keydiff": (EVICTION_POLICIES["keydiff"], keep_diverse),
}


def setting(policy: EvictionPolicy, share: float = 0.5) -> CacheSetting:
    """Return a setting under which the prompt is not too short."""
    return CacheSetting(policy, share, min_positions=1)


def generate(engine: LLMEngine) -> tuple[list[int], list[float]]:
    """Return the tokens of an output and their log-probabilities."""
    reader, _ = submit(engine, GenerationRequest(PROMPT, WITH_LOGPROBS, max_tokens=OUTPUT))
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    tokens = [one for delta in reader.deltas() for one in delta.logprobs]
    return [one.token for one in tokens], [one.logprob for one in tokens]


def reference(tokens: list[int], keep: Keep) -> tuple[list[float], SlowRun]:
    """Return the log-probabilities of an output by the slow reference."""
    run = run_with_masks(tiny_backbone().model, [*PROMPT, *tokens], COUNT, keep)
    logprobs = run.logits.log_softmax(-1)
    return [float(logprobs[COUNT - 1 + at, one]) for at, one in enumerate(tokens)], run


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
@torch.inference_mode()
def test_an_output_is_that_of_a_mask_for_each_head(name: str) -> None:
    """Entries that stay keep their angles, and what was evicted is as if it were masked."""
    policy, keep = REFERENCES[name]
    engine = LLMEngine(tiny_backbone(), max_sequences=2, cache=setting(policy()))
    tokens, logprobs = generate(engine)
    expected, run = reference(tokens, keep)

    assert len(tokens) == OUTPUT
    assert run.kept.sum(-1).eq(BUDGET).all()
    assert logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_eviction_changes_the_output_of_this_prompt() -> None:
    """The comparison with the reference could fail."""
    tokens, full = generate(LLMEngine(tiny_backbone(), max_sequences=2))
    expected, _ = reference(tokens, keep_all)
    masked, _ = reference(tokens, keep_sinks)

    assert full == pytest.approx(expected, abs=1e-4)
    assert masked != pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("name", EVICTION_POLICIES)
def test_all_bytes_give_the_output_of_the_whole_cache(name: str) -> None:
    """At share 1 nothing is evicted, bit for bit."""
    whole = generate(LLMEngine(tiny_backbone(), max_sequences=2))
    engine = LLMEngine(
        tiny_backbone(), max_sequences=2, cache=setting(EVICTION_POLICIES[name](), 1.0)
    )

    assert generate(engine) == whole
    assert engine.counters.evicted_tokens == 0


def test_an_untrained_scorer_keeps_what_the_observation_window_keeps() -> None:
    """Before training the learned policy is SnapKV."""
    outputs = [
        generate(LLMEngine(tiny_backbone(), max_sequences=2, cache=setting(policy)))
        for policy in (
            LearnedPolicy(CacheScorer(LAYERS, KV_HEADS, window=8)),
            ObservationWindowPolicy(window=8),
        )
    ]

    assert outputs[0] == outputs[1]


def test_graphs_of_few_shapes_give_the_same_output() -> None:
    """Steps that CUDA replays count evicted positions in their angles too."""
    outputs = [
        generate(
            LLMEngine(
                tiny_backbone(),
                max_sequences=2,
                graphs=graphs,
                cache=setting(EVICTION_POLICIES["keydiff"]()),
            )
        )
        for graphs in (False, True)
    ]

    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][1] == pytest.approx(outputs[1][1], abs=1e-5)


def test_rows_with_and_without_eviction_share_a_step(folder: Path) -> None:
    """A short prompt beside a compressed one, and adapters, change no output."""
    requests = [
        GenerationRequest(PROMPT, ENDLESS, max_tokens=OUTPUT, adapter="alpha"),
        GenerationRequest(PROMPT[:8], ENDLESS, max_tokens=OUTPUT),
        GenerationRequest(PROMPT[::-1], ENDLESS, max_tokens=OUTPUT, adapter="beta"),
    ]
    cache = CacheSetting(EVICTION_POLICIES["h2o"](), 0.5, min_positions=10)
    alone = []
    for request in requests:
        engine = make_engine(tiny_backbone(), folder, prefix_bytes=0)
        engine.core.set_cache(cache)
        alone.append(complete(engine, request))
    together = make_engine(tiny_backbone(), folder, prefix_bytes=0)
    together.core.set_cache(cache)
    readers = [submit(together, request)[0] for request in requests]
    while together.counters.running or together.counters.waiting:
        together.turn()

    assert [reader.text() for reader in readers] == alone
    assert together.counters.evicted_tokens == 2 * (COUNT - math.ceil(COUNT / 2))


def test_an_observed_pass_repeats_the_codes_of_an_adapter(folder: Path) -> None:
    """Observing a prompt writes its keys and values again and changes none of them."""
    engine = make_engine(tiny_backbone(), folder, prefix_bytes=0)
    engine.core.set_cache(setting(EVICTION_POLICIES["h2o"]()))
    compressor = engine.core.compressor
    assert compressor is not None
    request = GenerationRequest(PROMPT, ENDLESS, max_tokens=4, adapter="alpha")
    engine.core.admit(RequestHandle(request, DeltaReader().arrived.put))
    sequence = engine.core.scheduler.running[0]
    with torch.inference_mode():
        engine.core.compressor = None
        while not sequence.is_decoding:
            for batch in engine.core.scheduler.prefill_batches():
                engine.core._prefill(batch)
        before = engine.core.kv_cache.keys[:, sequence.slot, :, :COUNT].clone()
        queries = list(compressor._queries(sequence, COUNT))
        after = engine.core.kv_cache.keys[:, sequence.slot, :, :COUNT]

    assert isinstance(engine.backbone.layers[-1].self_attn.o_proj, BemSite)
    assert torch.allclose(before, after, atol=1e-5)
    assert [tuple(one.shape) for one in queries] == [(QUERY_HEADS, COUNT, 8)] * LAYERS


def test_a_compressed_sequence_donates_no_block_of_its_output(folder: Path) -> None:
    """A request that continues an output computes it anew, from the whole prompt."""
    engine = make_engine(tiny_backbone(), folder)
    engine.core.set_cache(setting(EVICTION_POLICIES["streaming_llm"]()))
    first = GenerationRequest(PROMPT, ENDLESS, max_tokens=40)
    text = complete(engine, first)
    following = GenerationRequest((*PROMPT, *encode(text)), ENDLESS, max_tokens=OUTPUT)
    engine.core.set_cache(None)
    continued = complete(engine, following)
    fresh = complete(make_engine(tiny_backbone(), folder, prefix_bytes=0), following)

    assert engine.counters.reused_tokens == COUNT // 32 * 32  # the prompt's whole blocks
    assert continued == fresh


@pytest.mark.slow
def test_evicted_bytes_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take what is behind the kept entries; the budget counts it no more."""
    offered = record_offers(monkeypatch)
    backbone = tiny_backbone(context_tokens=8192)
    prompt = tuple(encode("x" * 6000))
    engine = LLMEngine(
        backbone,
        max_sequences=1,
        kv_bytes=8192 * position_bytes(backbone),
        prefix_bytes=0,
        cache=CacheSetting(EVICTION_POLICIES["streaming_llm"](), 0.25),
    )
    submit(engine, GenerationRequest(prompt, ENDLESS, max_tokens=4))
    while not engine.counters.evicted_tokens:
        engine.turn()
    stored = engine.core.scheduler.running[0].stored_tokens
    offers = offered(engine.core.kv_cache)

    assert 1500 <= stored <= 1504
    assert engine.counters.kv_bytes == stored * position_bytes(backbone)
    assert not offers[:, :, :, :1500].any()
    assert bool((offers[:, 0, :, 1504:6000] == 2).all())
    assert engine.kv_tokens < 2048


def test_a_prompt_that_is_too_short_stays_whole() -> None:
    """A floor in positions keeps short prompts exact."""
    engine = LLMEngine(
        tiny_backbone(),
        max_sequences=1,
        cache=CacheSetting(EVICTION_POLICIES["h2o"](), 0.25, min_positions=COUNT),
    )
    generate(engine)

    assert engine.counters.evicted_tokens == 0


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """The error names the setting and its limits."""
    with pytest.raises(InvalidSettingError, match=r"kv_share: .* above 0 and at most 1"):
        CacheSetting(EVICTION_POLICIES["h2o"](), share)


def test_a_policy_beside_a_sliding_window_is_refused() -> None:
    """Moved entries would lie at another distance; within the window there is no difference."""
    setting = CacheSetting(EVICTION_POLICIES["streaming_llm"](), 0.5)
    with pytest.raises(InvalidSettingError, match=r"16 tokens .sliding_window.*KV_POLICY to full"):
        LLMEngine(family_backbone("mistral"), cache=setting)
    LLMEngine(family_backbone("mistral"), context_tokens=16, cache=setting)
