"""Tests of the decoder on the tiny model."""

import torch
from bem.engine.decoder import Decoder, probe_one_token
from bem.engine.kv_cache import KVCache
from bem.testing import tiny_backbone

from tests.support.tiny_models import backbone_of, tiny_model

IDS = torch.tensor([[5, 77, 9, 31], [250, 4, 18, 42]])


def test_halves_together_are_the_model() -> None:
    """Lower and upper half with full texts or slots give the logits of transformers."""
    backbone = tiny_backbone()
    decoder = Decoder(backbone, None, KVCache(backbone, slots=2, context_tokens=16))
    with torch.inference_mode():
        expected = tiny_backbone().model(IDS).logits[:, -1]
        for plan, transient in (
            (decoder.plan([0, 1], [0, 0], 4), False),
            (decoder.plan_full_texts(2, 4), True),
        ):
            hidden, _ = decoder.lower(IDS, plan, transient=transient)
            logits = decoder.logits(decoder.upper(hidden, plan, transient=transient))
            assert torch.allclose(logits, expected, atol=1e-4)


def test_target_logprobs_are_those_of_the_logits() -> None:
    """The log-probability of a target is that of the softmax over the vocabulary."""
    backbone = tiny_backbone()
    decoder = Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=16))
    hidden = torch.randn(3, backbone.model.config.hidden_size)
    targets = torch.tensor([4, 0, 200])
    with torch.inference_mode():
        expected = decoder.logits(hidden[:, None]).log_softmax(-1)[torch.arange(3), targets]

        assert torch.allclose(decoder.target_logprobs(hidden, targets), expected, atol=1e-5)


def test_a_probe_returns_logits() -> None:
    """The forward pass of one token has one row of logits."""
    backbone = tiny_backbone()
    decoder = Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=16))

    logits = probe_one_token(decoder, 5, torch.device("cpu"))
    assert logits.shape == (1, len(backbone.model.lm_head.weight))


def test_longrope_is_the_short_factors_up_to_their_context() -> None:
    """All 64 positions are transformers' own, token by token; with the 65th it changes them all."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.3, 1.7, 2.5],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
    }
    own = {"rope_parameters": rope, "original_max_position_embeddings": 64}
    backbone = backbone_of(tiny_model("phi3", sliding_window=None, **own))
    assert backbone.context_tokens == 64
    # A longer slot, as steps of fixed shape have it, does not change the angles either.
    decoder = Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=65))
    ids = torch.tensor([[(7 * place) % 250 for place in range(65)]])
    with torch.inference_mode():
        expected = backbone.model(ids[:, :64]).logits[0]
        longer = backbone.model(ids).logits[0, :64]
        rows = []
        for begin, end in [(0, 40), *((place, place + 1) for place in range(40, 64))]:
            plan = decoder.plan([0], [begin], end - begin)
            hidden, _ = decoder.lower(ids[:, begin:end], plan)
            rows.append(decoder.logits(decoder.upper(hidden, plan)[0].unsqueeze(1)))
    assert float((torch.cat(rows) - expected).abs().max()) <= 1e-4
    assert float((longer - expected).abs().max()) > 1e-2
