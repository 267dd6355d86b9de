"""Tests of the tiny base model that other tests use."""

import torch
from bem.testing import tiny_backbone


def test_same_seed_gives_the_same_model() -> None:
    """Weights depend on the seed only; the digest names the seed."""
    one, same, other = (tiny_backbone(seed).model.lm_head.weight for seed in (0, 0, 1))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert tiny_backbone(1).digest != tiny_backbone(0).digest


def test_tokenizer_is_byte_level_with_a_chat_template() -> None:
    """One token per byte, special tokens apart, and nothing lost."""
    backbone = tiny_backbone(context_tokens=64)
    text = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hé"}], tokenize=False, add_generation_prompt=True
    )
    ids = backbone.tokenizer.encode("hé", add_special_tokens=False)

    assert len(ids) == 3
    assert backbone.tokenizer.decode(ids) == "hé"
    assert text == "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n"
    assert backbone.context_tokens == 64
