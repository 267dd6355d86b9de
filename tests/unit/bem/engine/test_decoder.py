"""Tests of the decoder on the tiny model."""

import torch
from bem.engine.decoder import Decoder, probe_one_token
from bem.engine.kv_cache import KVCache
from bem.testing import tiny_backbone

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
