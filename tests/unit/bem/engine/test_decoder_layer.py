"""Decoder layers of every family beside transformers: rows, chunks, caches and formats."""

from dataclasses import replace

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine import GenerationRequest, LLMEngine
from bem.engine.decoder import Decoder
from bem.engine.decoder_layer import cap, capped_attention
from bem.engine.kv_cache import KVCache
from bem.engine.perplexity import perplexity_ratio
from bem.model_families import Constants
from torch import Tensor
from torch.nn import functional as f

from tests.support.family_models import every_variant, family_backbone
from tests.unit.bem.engine.engines import GREEDY, DeltaReader, submit

CONTEXT, CHUNK = 96, 32
LENGTHS = {0: 70, 1: 33, 3: 5}
"""Tokens of the texts by their slots."""


def random_ids(seed: int, tokens: int) -> Tensor:
    """Return token ids ``[1, T]``; none is 0, which ``generate`` takes for padding."""
    return torch.randint(1, 250, (1, tokens), generator=torch.Generator().manual_seed(seed))


def decoder_of(backbone: Backbone) -> Decoder:
    """Return a decoder with four slots."""
    return Decoder(backbone, None, KVCache(backbone, slots=4, context_tokens=CONTEXT))


@torch.inference_mode()
def run(decoder: Decoder, ids: Tensor, slots: list[int], starts: list[int]) -> Tensor:
    """Run ``ids [R, T]`` through all layers; return the logits of the last position."""
    plan = decoder.plan(slots, starts, ids.shape[1])
    return decoder.logits(decoder.upper(decoder.lower(ids, plan)[0], plan))


@every_variant
def test_chunks_and_rows_of_different_lengths_have_the_logits_of_transformers(variant: str) -> None:
    """Texts are prefilled in chunks and decoded together, with a free slot between them."""
    backbone = family_backbone(variant)
    reference, decoder = family_backbone(variant).model, decoder_of(backbone)
    texts = {slot: random_ids(slot, tokens + 1) for slot, tokens in LENGTHS.items()}
    for slot, tokens in LENGTHS.items():
        for begin in range(0, tokens, CHUNK):
            run(decoder, texts[slot][:, begin : min(tokens, begin + CHUNK)], [slot], [begin])
    last = torch.cat([ids[:, -1:] for ids in texts.values()])
    found = run(decoder, last, list(LENGTHS), list(LENGTHS.values()))
    with torch.inference_mode():
        wanted = torch.cat([reference(ids).logits[:, -1] for ids in texts.values()])

    assert (found - wanted).abs().max() < 1e-4


@every_variant
@torch.inference_mode()
def test_whole_texts_have_the_logits_of_transformers(variant: str) -> None:
    """Scoring and embedding run texts without slots; every position agrees."""
    backbone = family_backbone(variant)
    reference, decoder = family_backbone(variant).model, decoder_of(backbone)
    ids = torch.cat([random_ids(seed, 50) for seed in (1, 2)])
    plan = decoder.plan_full_texts(2, 50)
    hidden = decoder.upper(decoder.lower(ids, plan, transient=True)[0], plan, transient=True)
    wanted = reference(ids).logits

    assert (decoder.logits(hidden.flatten(0, 1)[:, None]) - wanted.flatten(0, 1)).abs().max() < 1e-4
    targets = ids[:, 1:].flatten()
    expected = wanted[:, :-1].log_softmax(-1).flatten(0, 1).gather(1, targets[:, None])[:, 0]
    found = decoder.target_logprobs(hidden[:, :-1].flatten(0, 1), targets)
    assert (found - expected).abs().max() < 1e-4


def answers(engine: LLMEngine, prompts: list[Tensor], count: int) -> list[str]:
    """Return the greedy answers; the later prompts arrive while the first decodes."""
    readers: list[DeltaReader] = []
    for ids in prompts:
        request = GenerationRequest(tuple(ids[0].tolist()), GREEDY, max_tokens=count)
        readers.append(submit(engine, request)[0])
        for _ in range(3 if len(readers) == 1 else 0):
            engine.turn()
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    return [reader.text() for reader in readers]


@every_variant
@pytest.mark.parametrize("graphs", [False, True])
def test_engine_answers_as_transformers_does(variant: str, graphs: bool) -> None:
    """In a batch, with chunked prefill, and again from the prefix cache."""
    backbone = family_backbone(variant)
    engine = LLMEngine(backbone, max_sequences=4, context_tokens=256, graphs=graphs)
    prompts = [random_ids(seed, tokens) for seed, tokens in enumerate((5, 150, 40, 90))]
    model, tokenizer = family_backbone(variant).model, backbone.tokenizer
    wanted = []
    for ids in prompts:
        out = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)
        wanted.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    assert answers(engine, prompts, 24) == wanted
    computed = engine.counters.prompt_tokens
    assert answers(engine, prompts, 24) == wanted
    assert engine.counters.prompt_tokens - computed < computed / 2


@every_variant
@torch.inference_mode()
def test_sites_compute_the_adapter_of_a_row(variant: str) -> None:
    """The low-rank terms enter where transformers' projections are, before a norm behind them."""
    backbone = family_backbone(variant)
    bank = AdapterBank(backbone, layers=range(1, 3), rank=2, slots=1, feature_layer=0)
    draw = torch.Generator().manual_seed(3)
    factors = {
        path: (
            torch.randn(2, site.base.in_features, generator=draw),
            torch.randn(site.base.out_features, 2, generator=draw),
        )
        for path, site in bank.factors.sites.items()
    }
    slot = bank.pin("x", factors, scale=0.3)
    bank.row_codes.set(torch.tensor([[slot], [slot]]), torch.tensor([[[1.0, 0.5]], [[0.0, 0.0]]]))
    ids = random_ids(4, 40).expand(2, -1)
    expected = backbone.model(ids).logits[:, -1]
    decoder = Decoder(backbone, bank, KVCache(backbone, slots=4, context_tokens=CONTEXT))

    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert (run(decoder, ids, [0, 1], [0, 0]) - expected).abs().max() < 1e-4


@every_variant
@pytest.mark.parametrize(("kind", "limit"), [("int8", 1.02), ("int4", 1.05)])
def test_quantised_perplexity_is_near_float32(
    variant: str, kind: WeightFormat, limit: float
) -> None:
    """8 bits stay within 2 %, 4 bits within 5 %."""
    backbone = replace(family_backbone(variant), weight_format=kind)

    assert 1 < perplexity_ratio(backbone) < limit


def test_capped_attention_without_effect_is_attention() -> None:
    """A bound far above all products changes nothing, for one token and for several."""
    cache = KVCache(family_backbone("llama"), slots=2, context_tokens=16)
    q, keys, values = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    plan = cache.plan_full_texts(2, 6)
    constants = Constants(attention=0.4, attention_cap=1e6)
    wanted = f.scaled_dot_product_attention(
        q, keys, values, is_causal=True, scale=0.4, enable_gqa=True
    )

    assert torch.allclose(capped_attention(q, keys, values, plan, constants), wanted, atol=1e-5)
    one = replace(plan, causal=False)
    single = q[:, :, -1].view(2, 2, 2, 8)  # [S, H, Q / H, D]
    found = capped_attention(single, keys, values, one, constants).flatten(1, 2)
    assert torch.allclose(found, wanted[:, :, -1], atol=1e-5)


def test_cap_bounds_values_and_keeps_small_ones() -> None:
    """The bound is approached and never passed; without a bound nothing changes."""
    x = torch.tensor([0.01, 1000.0, -1000.0])

    assert torch.allclose(cap(x, 5.0), torch.tensor([0.01, 5.0, -5.0]), atol=1e-4)
    assert cap(x, None) is x
