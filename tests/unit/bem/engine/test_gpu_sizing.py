"""GPU sizing: each computed part is what the engine allocates."""

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.engine.decoder import Decoder
from bem.engine.gpu_sizing import gpu_memory
from bem.engine.kv_cache import KVCache, kv_token_bytes, position_bytes

from tests.support.family_models import family_backbone


@pytest.mark.parametrize("variant", ["llama", "qwen2", "phi3", "gemma3"])
def test_computed_memory_is_that_of_a_loaded_model(variant: str) -> None:
    """Weights, keys and values, and factors of adapters, to the byte."""
    backbone = family_backbone(variant)
    config = backbone.model.config
    bank = AdapterBank(backbone, layers=[1, 2], rank=4, slots=3, feature_layer=0, linear=True)
    cache = KVCache(backbone, slots=5, context_tokens=65)
    decoder = Decoder(backbone, bank, cache)
    found = gpu_memory(
        config,
        value_bytes=4,
        slots=5,
        context_tokens=64,
        prefix_bytes=7,
        adapter_slots=3,
        rank=4,
    )
    bank.preallocate_concatenated(torch.float32)
    sites = [*bank.factors.sites.values(), *bank.linear.sites.values()]
    stacks = sum(site.A.nbytes + site.B.nbytes for site in sites)
    joined = sum(one.nbytes for site in sites for one in site._concatenated or ())

    assert found.weights == found.start == decoder.weight_bytes
    assert found.kv == cache.keys.nbytes + cache.values.nbytes
    assert kv_token_bytes(config, 4) == position_bytes(backbone) == cache.position_bytes
    assert found.adapters == stacks + joined
    assert found.served == found.least == found.weights + found.kv + found.adapters + 7


def test_a_part_has_its_share_and_the_vocabulary() -> None:
    """The first of two processes holds half of the layers, all of the vocabulary, no adapters."""
    config = family_backbone("llama").model.config
    whole, half = (
        gpu_memory(config, shards=n, slots=2, context_tokens=64, prefix_bytes=0) for n in (1, 2)
    )
    vocabulary = 2 * 2 * config.vocab_size * config.hidden_size
    assert half.weights - vocabulary == (whole.weights - vocabulary) // 2
    assert half.start == 2 * half.weights
    assert half.kv == 64 * whole.kv // 65 // 2
    assert half.adapters == 0
